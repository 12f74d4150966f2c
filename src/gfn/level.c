/* The mapping level that slot and attributes allow; the list of tables that NX keeps small. */
#include "src/gfn/level.h"

#include "src/base/assert.h"
#include "src/gfn/track.h"
#include "src/gmem/privacy.h"
#include "src/vm/locks.h"

/* Frame number of the slot's backing: what must be aligned together with the gfn. */
static u64 backing_frame(const struct memslot *slot)
{
	if (slot->flags & MEMSLOT_GMEM_ONLY)
		return slot->gmem.pgoff;
	return slot->hva.v >> QUIRE_PAGE_SHIFT;
}

static bool block_allowed(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn,
			  u32 level) REQUIRES_SHARED(&vm->mmu_lock)
{
	u64 pages = level_pages((enum quire_level)level);
	u64 block = round_down_u64(gfn.v, pages);
	u64 value;

	if (block < slot->base_gfn.v || block + pages > memslot_end(slot).v)
		return false;
	if (!is_aligned_u64(backing_frame(slot) - slot->base_gfn.v, pages))
		return false;
	/* Private gfns of the slot come from the file, at its own offset. */
	if ((slot->flags & QUIRE_SLOT_GMEM) &&
	    !is_aligned_u64(slot->gmem.pgoff - slot->base_gfn.v, pages))
		return false;
	if (gfn_track_block(vm, slot->as_id, (gfn_t){block}, pages))
		return false;
	return privacy_uniform(vm, slot, (gfn_t){block}, pages, &value);
}

enum quire_level gfn_level_max(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn,
			       enum quire_level max)
{
	enum quire_level level = (enum quire_level)min_u64(max, gfn_level_of_flags(slot));

	mmu_assert_shared(vm);
	while (level > QUIRE_LEVEL_4K && !block_allowed(vm, slot, gfn, level))
		level--;
	return level;
}

void nx_table_init(struct table *table, gfn_t gfn, u32 as_id)
{
	CHECK(as_id < QUIRE_AS_MAX);
	CHECK(!table->nx_listed);
	table->gfn = gfn;
	table->as_id = (u8)as_id;
	table->nx_disallowed = 0;
	table->nx_listed = 0;
	table->shadowed = 0;
}

void nx_list_add(struct quire_vm *vm, struct table *table)
{
	struct nx_tables *nx = &vm->nx;

	mmu_assert_shared(vm);
	mutex_lock(&vm->roots.pages_lock);
	CHECK(!table->nx_listed && table->nx_disallowed);
	CHECK(!nx->newest == !nx->oldest);
	table->nx_newer = NULL;
	table->nx_older = nx->newest;
	if (nx->newest)
		nx->newest->nx_newer = table;
	else
		nx->oldest = table;
	nx->newest = table;
	atomic_store_relaxed_u8(&table->nx_listed, 1);
	mutex_unlock(&vm->roots.pages_lock);
	atomic_add_relaxed_u64(&vm->stats[QUIRE_VM_STAT_nx_lpage_splits], 1);
}

static void remove_locked(struct quire_vm *vm, struct table *table)
{
	struct nx_tables *nx = &vm->nx;

	CHECK(lock_is_held(&vm->roots.pages_lock, LOCK_EXCLUSIVE));
	CHECK(table->nx_older ? table->nx_older->nx_newer == table : nx->oldest == table);
	CHECK(table->nx_newer ? table->nx_newer->nx_older == table : nx->newest == table);
	if (table->nx_older)
		table->nx_older->nx_newer = table->nx_newer;
	else
		nx->oldest = table->nx_newer;
	if (table->nx_newer)
		table->nx_newer->nx_older = table->nx_older;
	else
		nx->newest = table->nx_older;
	atomic_store_relaxed_u8(&table->nx_listed, 0);
	atomic_store_relaxed_u8(&table->nx_disallowed, 0);
	atomic_add_relaxed_u64(&vm->stats[QUIRE_VM_STAT_nx_lpage_splits], -UINT64_C(1));
}

/* Unlinkers may test nx_listed without the lock: a table is listed before it is unlinked. */
void nx_list_remove(struct quire_vm *vm, struct table *table)
{
	if (likely(!atomic_load_relaxed_u8(&table->nx_listed)))
		return;
	mutex_lock(&vm->roots.pages_lock);
	if (table->nx_listed)
		remove_locked(vm, table);
	mutex_unlock(&vm->roots.pages_lock);
}

int nx_list_pop(struct quire_vm *vm, struct nx_range *range)
{
	struct table *table;

	mmu_assert_exclusive(vm);
	mutex_lock(&vm->roots.pages_lock);
	table = vm->nx.oldest;
	if (table) {
		range->as_id = table->as_id;
		range->shadow = table->shadowed ? table : NULL;
		range->start = table->gfn;
		range->end.v = table->gfn.v + level_pages((enum quire_level)(table->level + 1u));
		CHECK(is_aligned_u64(range->start.v, range->end.v - range->start.v));
		remove_locked(vm, table);
	}
	mutex_unlock(&vm->roots.pages_lock);
	return table != NULL;
}
