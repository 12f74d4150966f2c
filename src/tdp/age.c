/* Which leaves has the guest used since the last look? */
#include "src/tdp/age.h"

#include "src/base/mutant.h"
#include "src/tdp/store.h"
#include "src/vm/locks.h"

struct age {
	const struct entry_format *f;
	enum quire_age kind;
	bool young;
};

/*
 * The walker may set A at the same moment, or a zap take the leaf away: one attempt is enough,
 * since either way the page was used, and an A that stays is found the next time. Without A the
 * leaf loses its rights, and no flush is owed for them (entry_ages_by_rights()).
 */
static void age_run(const struct walk_run *run, void *ctx)
{
	struct age *age = ctx;
	const struct entry_format *f = age->f;

	CHECK(base_self()->nesting);
	for (u32 i = 0; i < run->count; i++) {
		u64 old = atomic_load_relaxed_u64(&run->entries[i]);

		if (!entry_is_present(f, old) || !entry_is_leaf(f, old, run->level) ||
		    !entry_is_young(f, old))
			continue;
		age->young = true;
		CHECK(entry_same_pfn(f, entry_make_old(f, old), old));
		CHECK(!entry_is_young(f, entry_make_old(f, old)));
		if (age->kind == QUIRE_AGE_CLEAR && MUTANT(age_blind))
			atomic_store_relaxed_u64(&run->entries[i], entry_make_old(f, old));
		else if (age->kind == QUIRE_AGE_CLEAR)
			(void)!atomic_cmpxchg_relaxed_u64(&run->entries[i], &old,
							  entry_make_old(f, old));
	}
}

int tdp_age_range(struct quire_vm *vm, const struct tdp_age_range *range)
{
	struct age age = {.f = &vm->tdp_format, .kind = range->kind};
	const struct tdp_visit visit = {.lowest = QUIRE_LEVEL_4K, .visit = age_run, .ctx = &age};

	mmu_assert_section(vm);
	tdp_walk(vm, range->as_id, &visit, range->start, range->end);
	return age.young;
}
