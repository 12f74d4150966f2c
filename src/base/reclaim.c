/* Grace periods. */
#include "src/base/reclaim.h"

#include "src/base/assert.h"

u64 reclaim_epoch = 1;

void reclaim_synchronize(void)
{
	u64 epoch = atomic_fetch_add_u64(&reclaim_epoch, 1) + 1;

	if (BROKEN(base_self()->nesting == 0))
		return;
	for (struct quire_thread *thread = base_threads(); thread; thread = thread->next) {
		for (unsigned int turn = 0;; turn++) {
			u64 seen = atomic_load_acquire_u64(&thread->epoch);

			if (!seen || seen >= epoch)
				break;
			base_platform->relax(turn);
		}
	}
}
