/* Is a memory region acceptable, and what change does it ask for? */
#include <errno.h>

#include "src/vm/memslot_internal.h"
#include "src/vm/locks.h"
#include "src/vm/vm.h"

#define USER_FLAGS (QUIRE_SLOT_LOG_DIRTY | QUIRE_SLOT_READONLY | QUIRE_SLOT_GMEM)
#define PAGES_MAX ((UINT64_C(1) << 31) - 1)
#define REGION_ID(region) ((region)->slot & 0xffffu)
#define REGION_AS(region) ((region)->slot >> 16)

/* The flags, with those that exclude each other. */
static int check_flags(u32 flags)
{
	u32 allowed = QUIRE_SLOT_GMEM;

	if (!(flags & QUIRE_SLOT_GMEM))
		allowed |= QUIRE_SLOT_LOG_DIRTY | QUIRE_SLOT_READONLY;
	return flags & ~allowed ? -EINVAL : 0;
}

static bool is_user_range(u64 start, u64 size_bytes)
{
	return size_bytes <= MEMSLOT_HVA_LIMIT && start <= MEMSLOT_HVA_LIMIT - size_bytes;
}

/* What can be said without looking at the slots there are, in KVM's order (U-021 to U-031). */
static int check_shape(const struct quire_vm *vm, const struct quire_region *region)
{
	u64 offset = region->gmem_offset_bytes;
	u64 size = region->size_bytes;

	if (REGION_ID(region) >= QUIRE_USER_SLOTS)
		return -EINVAL;
	if (check_flags(region->flags))
		return -EINVAL;
	if (!is_aligned_u64(size, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (!is_aligned_u64(region->gpa.v, QUIRE_PAGE_SIZE))
		return -EINVAL;
	if (!is_aligned_u64(region->hva.v, QUIRE_PAGE_SIZE) || !is_user_range(region->hva.v, size))
		return -EINVAL;
	if ((region->flags & QUIRE_SLOT_GMEM) &&
	    (!is_aligned_u64(offset, QUIRE_PAGE_SIZE) || offset + size < offset))
		return -EINVAL;
	if (REGION_AS(region) >= vm->slots.nr_as)
		return -EINVAL;
	if (region->gpa.v + size < region->gpa.v)
		return -EINVAL;
	if (size >> QUIRE_PAGE_SHIFT > PAGES_MAX)
		return -EINVAL;
	return 0;
}

/* Does a slot with another id lie in the region? */
static int check_overlap(const struct quire_vm *vm, const struct quire_region *region)
{
	gfn_t start = gfn_of(region->gpa);
	gfn_t end = {start.v + (region->size_bytes >> QUIRE_PAGE_SHIFT)};
	const struct memslot *slot;
	struct memslot_iter iter;

	memslot_for_gfn(slot, vm, REGION_AS(region), start, end, &iter)
	{
		if (slot->id != REGION_ID(region))
			return -EEXIST;
	}
	return 0;
}

static int decide_delete(const struct quire_vm *vm, struct memslot_decision *decision)
{
	if (!decision->old)
		return -EINVAL;
	if (vm->slots.total_pages < decision->old->npages)
		return -EIO;
	decision->change = MEMSLOT_DELETE;
	return 0;
}

static int decide_create(const struct quire_vm *vm, const struct quire_region *region,
			 struct memslot_decision *decision)
{
	u64 npages = region->size_bytes >> QUIRE_PAGE_SHIFT;

	if (vm->slots.total_pages + npages < vm->slots.total_pages)
		return -EINVAL;
	decision->change = MEMSLOT_CREATE;
	return check_overlap(vm, region);
}

static int decide_modify(const struct quire_vm *vm, const struct quire_region *region,
			 struct memslot_decision *decision)
{
	const struct memslot *old = decision->old;
	u32 toggled = (old->flags ^ region->flags) & USER_FLAGS;

	if (region->flags & QUIRE_SLOT_GMEM)
		return -EINVAL;
	if (old->hva.v != region->hva.v || old->npages != region->size_bytes >> QUIRE_PAGE_SHIFT ||
	    (toggled & (QUIRE_SLOT_READONLY | QUIRE_SLOT_GMEM)))
		return -EINVAL;
	if (old->base_gfn.v != gfn_of(region->gpa).v) {
		decision->change = MEMSLOT_MOVE;
		return check_overlap(vm, region);
	}
	decision->change = toggled ? MEMSLOT_FLAGS_ONLY : MEMSLOT_NONE;
	return 0;
}

int memslot_check(const struct quire_vm *vm, const struct quire_region *region,
		  struct memslot_decision *decision)
{
	int error = check_shape(vm, region);

	slots_assert(vm);
	*decision = (struct memslot_decision){.change = MEMSLOT_NONE};
	if (error)
		return error;
	decision->old = memslot_by_id(vm, REGION_AS(region), REGION_ID(region));
	if (region->size_bytes == 0)
		return decide_delete(vm, decision);
	if (!decision->old)
		return decide_create(vm, region, decision);
	return decide_modify(vm, region, decision);
}

int memslot_check_max_gfn(const struct quire_region *region, gfn_t max)
{
	u64 npages = region->size_bytes >> QUIRE_PAGE_SHIFT;

	if (npages && gfn_of(region->gpa).v + npages - 1 > max.v)
		return -EINVAL;
	return 0;
}
