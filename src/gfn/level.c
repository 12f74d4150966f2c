/* The mapping level that slot and attributes allow. */
#include "src/gfn/level.h"

#include "src/gfn/track.h"
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
	return attributes_uniform(vm, (gfn_t){block}, pages, &value);
}

enum quire_level gfn_level_max(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn,
			       enum quire_level max)
{
	enum quire_level cap = gfn_level_of_flags(slot), level = max < cap ? max : cap;

	mmu_assert_shared(vm);
	while (level > QUIRE_LEVEL_4K && !block_allowed(vm, slot, gfn, level))
		level--;
	return level;
}
