/* Changing which pages are private. */
#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/change/change.h"
#include "src/gmem/privacy.h"
#include "src/vm/locks.h"

static int range_check(const struct quire_vm *vm, gpa_t gpa, u64 size_bytes, u64 attributes)
{
	if (attributes & ~quire_vm_attributes(vm))
		return -EINVAL;
	if (size_bytes == 0 || gpa.v + size_bytes < gpa.v)
		return -EINVAL;
	if (!is_aligned_u64(gpa.v | size_bytes, QUIRE_PAGE_SIZE))
		return -EINVAL;
	return 0;
}

/* A fault beside the range makes no huge mapping across it: invalidation_touches() says so. */
static void invalidate(struct quire_vm *vm, gfn_t start, gfn_t end, struct flush_debt *debt)
{
	change_lock(vm, debt);
	invalidation_begin(vm);
	invalidation_add_range(vm, start, end);
	change_zap_range(vm, 1, start, end, debt);
	change_pay_unlock(vm, debt, MUTANT(attributes_unflushed), MUTANT(attributes_late));
}

/* Pages of guest_memfd leave the reverse map with the conversion, not only with the punch. */
static void make_range_shared(struct quire_vm *vm, gfn_t start, gfn_t end)
{
	const struct memslot *slot;
	struct memslot_iter iter;

	slots_assert(vm);
	/* Without mmu_lock: of others' invalidations, too, while this one's lasts. */
	CHECK(atomic_load_relaxed_u32(&vm->invalidation.in_progress) ||
	      MUTANT(attributes_end_first));
	CHECK(!(range_map_get(&vm->attributes, start.v) & QUIRE_ATTRIBUTE_PRIVATE));
	memslot_for_gfn(slot, vm, 0, start, end, &iter)
	{
		gfn_t first = {max_u64(start.v, slot->base_gfn.v)};

		gmem_make_shared(slot, first, min_u64(end.v, memslot_end(slot).v) - first.v);
	}
}

static bool has_attributes(const struct quire_vm *vm, gfn_t start, u64 npages, u64 attributes)
{
	u64 found;

	return range_map_uniform(&vm->attributes, start.v, start.v + npages, &found) &&
	       found == attributes;
}

static int set_attributes_locked(struct quire_vm *vm, gfn_t start, u64 npages, u64 attributes)
{
	const struct ptree_item range = {start.v, start.v + npages, (void *)(uintptr_t)attributes};
	struct range_map_change change;
	struct flush_debt debt;
	int err;

	slots_assert(vm);
	if (has_attributes(vm, start, npages, attributes))
		return 0;
	err = range_map_prepare(&vm->attributes, vm->host, vm->host_ctx, &range, &change);
	if (err)
		return err;
	invalidate(vm, start, (gfn_t){start.v + npages}, &debt);
	if (MUTANT(attributes_end_first))
		change_end_invalidation(vm);
	range_map_commit(&vm->attributes, &change);
	if (!(attributes & QUIRE_ATTRIBUTE_PRIVATE))
		make_range_shared(vm, start, (gfn_t){start.v + npages});
	if (!MUTANT(attributes_end_first))
		change_end_invalidation(vm);
	reclaim_synchronize();
	range_map_finish(&change);
	CHECK(has_attributes(vm, start, npages, attributes));
	tdp_debt_settle(vm, &debt);
	return 0;
}

int quire_vm_set_attributes(struct quire_vm *vm, gpa_t gpa, uint64_t size_bytes,
			    uint64_t attributes)
{
	int err;

	if (vm_is_dead(vm))
		return -EIO;
	err = range_check(vm, gpa, size_bytes, attributes);
	/* Without private memory there is one attribute value, and every page has it. */
	if (err || !quire_vm_attributes(vm))
		return err;
	QUIRE_TRACE(kvm_vm_set_mem_attributes, gfn_of(gpa).v,
		    gfn_of(gpa).v + (size_bytes >> QUIRE_PAGE_SHIFT), attributes);
	mutex_lock(&vm->slots_lock);
	err = set_attributes_locked(vm, gfn_of(gpa), size_bytes >> QUIRE_PAGE_SHIFT, attributes);
	mutex_unlock(&vm->slots_lock);
	return err;
}

uint64_t quire_vm_get_attributes(struct quire_vm *vm, gfn_t gfn)
{
	u64 attributes;

	reclaim_enter();
	attributes = privacy_of_gfn(vm, 0, gfn);
	reclaim_leave();
	return attributes;
}
