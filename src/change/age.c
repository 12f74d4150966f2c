/* Aging: the host asks which of the guest's pages are in use. */

#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/change/change.h"
#include "src/tdp/age.h"

static int age_range(struct quire_vm *vm, u32 as_id, const struct tdp_age_range *range)
{
	const struct shadow_age_range nested = {
	    .as_id = as_id, .start = range->start, .end = range->end, .kind = range->kind};

	return tdp_age_range(vm, range) | shadow_age(vm, &nested);
}

/*
 * Without a lock. No flush: a vCPU that goes on with a cached translation does not set A again, and
 * its page looks old too early, as on hardware; the host only chooses less well which page to take.
 */
int quire_vm_age(struct quire_vm *vm, hva_t start, hva_t end, enum quire_age kind)
{
	const struct memslot *slot;
	struct memslot_iter iter;
	int young = 0;

	if (kind == QUIRE_AGE_TEST)
		QUIRE_TRACE(kvm_test_age_hva, start.v);
	else
		QUIRE_TRACE(kvm_age_hva, start.v, end.v);
	/* An empty range lies within a slot, and a walk would look at the page around it. */
	if (start.v >= end.v)
		return 0;
	reclaim_enter();
	for (u32 as = 0; as < vm->address_spaces; as++) {
		memslot_for_hva(slot, vm, as, start, end, &iter)
		{
			struct tdp_age_range range = {.as_id = as, .kind = kind};

			/* A slot served by guest_memfd maps nothing through the hva. */
			if (slot->flags & MEMSLOT_GMEM_ONLY)
				continue;
			memslot_gfns(slot, start, end, &range.start, &range.end);
			young |= age_range(vm, as, &range);
		}
	}
	reclaim_leave();
	return young;
}
