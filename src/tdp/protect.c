/* Taking write permission away, for dirty logging. */
#include "src/tdp/tdp.h"

#include "src/base/assert.h"
#include "src/walk/range.h"

/*
 * W goes and mmu_writable stays, so that the fast path gives W back without a lock and marks the
 * page. D goes with W: the walker sets it again with the next write, and never needs to before.
 */
static void protect_entry(const struct tdp_change *change, u64 *entry, u32 level)
{
	const struct entry_format *f = change->vm->format;
	u64 old = atomic_load_relaxed_u64(entry);

	while (entry_is_present(f, old) && entry_is_leaf(f, old, level) &&
	       entry_is_writable(f, old)) {
		u64 new = old & ~(f->writable | f->dirty);

		if (tdp_change_entry(change, entry, level, &old, new))
			return;
	}
}

static void protect_run(const struct walk_run *run, void *ctx)
{
	for (u32 i = 0; i < run->count; i++)
		protect_entry(ctx, &run->entries[i], run->level);
}

void tdp_write_protect_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end,
			     struct flush_debt *debt)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);
	struct tdp_change change = {.vm = vm, .leaves = vm->leaves, .debt = debt};
	struct walk walk = {
	    .format = vm->format,
	    .root_level = TDP_ROOT_LEVEL,
	    .lowest = QUIRE_LEVEL_4K,
	    .visit = protect_run,
	    .ctx = &change,
	};

	if (!root)
		return;
	walk.root = table_entries(root);
	walk_range(&walk, start, end);
}

void tdp_write_protect_mask(struct quire_vm *vm, u32 as_id, gfn_t base, u64 mask,
			    struct flush_debt *debt)
{
	struct table *root = atomic_load_acquire_ptr(&vm->roots.valid[as_id]);
	struct tdp_change change = {.vm = vm, .leaves = vm->leaves, .debt = debt};

	while (root && mask) {
		gfn_t gfn = {base.v + (u64)__builtin_ctzll(mask)};
		u32 level;
		u64 *entry = tdp_find(vm, root, gfn, &level);

		mask &= mask - 1;
		protect_entry(&change, entry, level);
	}
}
