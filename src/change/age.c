/* Aging: the host asks which of the guest's pages are in use. */
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/tdp/age.h"

/* The mappings of nested guests, under mmu_lock exclusive: rmaps have no other guard. */
static int age_nested(struct quire_vm *vm, hva_t start, hva_t end, enum quire_age kind)
{
	const struct memslot *slot;
	struct memslot_iter iter;
	int young = 0;

	change_lock(vm);
	reclaim_enter();
	for (u32 as = 0; as < vm->address_spaces; as++) {
		memslot_for_hva(slot, vm, as, start, end, &iter)
		{
			struct shadow_age_range range = {.as_id = as, .kind = kind};

			if (slot->flags & MEMSLOT_GMEM_ONLY)
				continue;
			memslot_gfns(slot, start, end, &range.start, &range.end);
			young |= shadow_age(vm, &range);
		}
	}
	reclaim_exit();
	change_unlock(vm);
	return young;
}

/*
 * Lock-free while there is no nested guest. No flush: a vCPU that goes on with a cached translation
 * does not set A again, and its page looks old too early, as on hardware; the host only chooses
 * less well which page to take.
 */
int quire_vm_age(struct quire_vm *vm, hva_t start, hva_t end, enum quire_age kind)
{
	const struct memslot *slot;
	struct memslot_iter iter;
	int young = 0;

	reclaim_enter();
	for (u32 as = 0; as < vm->address_spaces; as++) {
		memslot_for_hva(slot, vm, as, start, end, &iter)
		{
			struct tdp_age_range range = {.as_id = as, .kind = kind};

			/* A slot served by guest_memfd maps nothing through the hva. */
			if (slot->flags & MEMSLOT_GMEM_ONLY)
				continue;
			memslot_gfns(slot, start, end, &range.start, &range.end);
			young |= tdp_age_range(vm, &range);
		}
	}
	reclaim_exit();
	return shadow_of(vm) ? young | age_nested(vm, start, end, kind) : young;
}
