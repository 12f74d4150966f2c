/* Splitting the huge pages of a range: for a log, and on request. */
#include <errno.h>

#include <quire/dirty.h>

#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/change/nested.h"
#include "src/vm/locks.h"

/* Tables in hand for a piece: enough for one 1G leaf and a few more. */
#define SPLIT_TABLES 64u

/*
 * With faults going on: the loser of a compare-exchange finds small leaves, which is what both
 * want.
 */
int change_split_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end)
{
	struct table_cache tables = {0};
	int err;

	slots_assert(vm);
	CHECK(start.v < end.v && as_id < vm->address_spaces);
	change_nested_split(vm, as_id, start, end);
	/* At first with no table: where nothing is huge, none is wanted. */
	do {
		biglock_read_lock(&vm->mmu_lock, NULL);
		reclaim_enter();
		err = tdp_split_range(vm, as_id, &start, end, &tables);
		reclaim_leave();
		biglock_read_unlock(&vm->mmu_lock, NULL);
		if (!err)
			continue;
		if (tables.exhausted)
			break;
		/* Without memory the tables in hand still go as far as they go. */
		tables.exhausted = table_cache_fill(&tables, &vm->arena, SPLIT_TABLES) != 0;
	} while (start.v < end.v);
	table_cache_drain(&tables, &vm->arena);
	return err;
}

/* So much is split in one hold of slots_lock: the largest leaf. */
#define STEP_LEVEL QUIRE_LEVEL_1G

/* [start, *@end) of one slot, or of no slot, as far as a step goes; *@end is how far that is. */
static int split_step(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t *end)
    REQUIRES(&vm->slots_lock)
{
	const struct memslot *slot = memslot_lookup(vm, as_id, start, NULL);
	u64 block = level_pages(STEP_LEVEL);
	struct memslot_iter iter;

	slots_assert(vm);
	CHECK(start.v < end->v);
	if (!slot) {
		slot = memslot_first_gfn(vm, as_id, start, *end, &iter);
		if (slot)
			*end = slot->base_gfn;
		return -ENOENT;
	}
	end->v = min_u64(end->v, memslot_end(slot).v);
	if (slot->flags & QUIRE_SLOT_GMEM)
		return -EOPNOTSUPP;
	end->v = min_u64(end->v, round_down_u64(start.v, block) + block);
	return change_split_range(vm, as_id, start, *end);
}

int quire_vm_split(struct quire_vm *vm, uint32_t as_id, gpa_t gpa, uint64_t size_bytes,
		   uint64_t *done_bytes)
{
	gfn_t start = gfn_of(gpa), end = {start.v + (size_bytes >> QUIRE_PAGE_SHIFT)};
	int err;

	if (!done_bytes)
		return -EINVAL;
	locks_assert_none();
	if (vm_is_dead(vm))
		return -EIO;
	if (!size_bytes || (gpa.v | size_bytes) % QUIRE_PAGE_SIZE ||
	    gpa.v + size_bytes < size_bytes || as_id >= vm->address_spaces)
		return -EINVAL;
	if (vm_is_shadowed(vm))
		return -EOPNOTSUPP;
	mutex_lock(&vm->slots_lock);
	err = split_step(vm, as_id, start, &end);
	mutex_unlock(&vm->slots_lock);
	if (err != -ENOMEM)
		*done_bytes = (end.v - start.v) << QUIRE_PAGE_SHIFT;
	return err;
}
