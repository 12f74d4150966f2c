/* Waiting for sections that may sleep. */
#include "src/base/section.h"

#include "src/base/mutant.h"
#include "src/base/platform.h"

void long_section_leave(struct long_sections *sections, u32 turn)
{
	/* A full fence: either we see @waiting, or the waiter sees the count. */
	(void)atomic_fetch_sub_u32(&sections->inside[turn], 1);
	if (unlikely(atomic_load_relaxed_u32(&sections->waiting)))
		base_platform->wake(&sections->inside[turn], UINT32_MAX);
}

void long_sections_wait(struct long_sections *sections)
{
	/* The exchange of @turn is a full fence after it: a section that misses it is seen. */
	atomic_store_relaxed_u32(&sections->waiting, 1);
	for (u32 i = 0; i < (MUTANT(section_waits_once) ? 1u : 2u); i++) {
		u32 turn = atomic_load_relaxed_u32(&sections->turn), inside;

		(void)atomic_exchange_u32(&sections->turn, turn ^ 1);
		while ((inside = atomic_load_acquire_u32(&sections->inside[turn])))
			base_platform->wait(&sections->inside[turn], inside);
	}
	atomic_store_relaxed_u32(&sections->waiting, 0);
}
