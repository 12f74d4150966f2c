/* Taking leaves away from a gfn range. */
#include "src/tdp/store.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/vm/locks.h"

/*
 * Entries whose block lies in the range go with all that is below them, in one store; the table
 * they pointed to is swept when the debt is settled. An entry that is cut by the range's end
 * is left to the walk, or, being a huge leaf, goes whole: a leaf cannot be half there.
 *
 * MMIO entries map nothing and stay, as in KVM: their generation tells whether they hold. A table
 * that has one is left to the walk, too.
 */
static bool table_goes_whole(const struct entry_format *f, const struct walk_run *run, u32 index,
			     u64 entry)
{
	return walk_covers(run, index) &&
	       !atomic_load_relaxed_u8(&table_of(entry_table(f, entry))->has_mmio);
}

static void zap_run(const struct walk_run *run, void *ctx)
{
	const struct tdp_change *change = ctx;
	const struct entry_format *f = &change->vm->tdp_format;

	mmu_assert_exclusive(change->vm);
	for (u32 i = 0; i < run->count; i++) {
		u64 old = atomic_load_relaxed_u64(&run->entries[i]);

		while (old != f->nonpresent && !entry_is_mmio(f, old)) {
			bool table = !entry_is_leaf(f, old, run->level);

			/* None is frozen: that is for mmu_lock shared. */
			CHECK(entry_is_present(f, old));
			if (table && !table_goes_whole(f, run, i, old))
				break;
			if (MUTANT(zap_spares_huge) && !walk_covers(run, i))
				break;
			/* The vCPU may set A or D at any moment: try again with what is there. */
			if (tdp_change_entry(change, &run->entries[i], run->level, &old,
					     f->nonpresent))
				break;
		}
	}
}

void tdp_zap_range(struct quire_vm *vm, u32 as_mask, gfn_t start, gfn_t end,
		   struct flush_debt *debt)
{
	struct tdp_change change = {.vm = vm, .leaves = vm->leaves, .debt = debt};
	const struct tdp_visit visit = {.lowest = QUIRE_LEVEL_4K, .visit = zap_run, .ctx = &change};

	mmu_assert_exclusive(vm);
	CHECK(start.v <= end.v && as_mask);
	CHECK(debt->domain == &vm->flush);
	for (u32 as = 0; as < vm->address_spaces; as++)
		if (as_mask & (1u << as))
			tdp_walk(vm, as, &visit, start, end);
}
