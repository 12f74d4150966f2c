/* Splitting the huge pages of a range. */
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
void change_split_range(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end)
{
	struct table_cache tables = {0};
	int err;

	slots_assert(vm);
	CHECK(start.v < end.v && as_id < vm->address_spaces);
	change_nested_split(vm, as_id, start, end);
	/* At first with no table: where nothing is huge, none is wanted. */
	while (start.v < end.v) {
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
	}
	table_cache_drain(&tables, &vm->arena);
}
