/* The host changes what client addresses mean: KVM's MMU notifier. */

#include "src/access/pfn_cache.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/change/change.h"

/* Does any slot show part of [start, end)? */
static bool any_slot(const struct quire_vm *vm, hva_t start, hva_t end)
{
	struct memslot_iter iter;
	bool any = false;

	/* An empty range lies within a slot, and changes nothing of it. */
	if (start.v >= end.v)
		return false;
	reclaim_enter();
	for (u32 as = 0; as < vm->address_spaces && !any; as++)
		any = memslot_first_hva(vm, as, start, end, &iter) != NULL;
	reclaim_leave();
	return any;
}

/* Under mmu_lock, in a read section. */
static void zap_slots(struct quire_vm *vm, hva_t start, hva_t end, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock)
{
	const struct memslot *slot;
	struct memslot_iter iter;

	for (u32 as = 0; as < vm->address_spaces; as++) {
		memslot_for_hva(slot, vm, as, start, end, &iter)
		{
			gfn_t first, last;

			memslot_gfns(slot, start, end, &first, &last);
			invalidation_add_range(vm, first, last);
			/* A slot served by guest_memfd maps nothing through the hva. */
			if (slot->flags & MEMSLOT_GMEM_ONLY)
				continue;
			/* It may drop mmu_lock, but the set of slots stays as it is. */
			reclaim_leave();
			change_zap_range(vm, 1u << as, first, last, debt);
			reclaim_enter();
		}
	}
}

void quire_vm_host_invalidate_begin(struct quire_vm *vm, hva_t start, hva_t end)
{
	struct flush_debt debt;

	QUIRE_TRACE(kvm_unmap_hva_range, start.v, end.v);
	/* From here on the set of slots stays: begin and end see the same. */
	host_invalidation_enter(vm);
	pfn_caches_invalidate(vm, start, end);
	if (!any_slot(vm, start, end))
		return;
	change_lock(vm, &debt);
	invalidation_begin(vm);
	reclaim_enter();
	zap_slots(vm, start, end, &debt);
	reclaim_leave();
	change_pay_unlock(vm, &debt, MUTANT(host_unflushed), MUTANT(host_late));
	tdp_debt_settle(vm, &debt);
}

void quire_vm_host_invalidate_end(struct quire_vm *vm, hva_t start, hva_t end)
{
	if (any_slot(vm, start, end))
		change_end_invalidation(vm);
	pfn_caches_invalidate_end(vm, start, end);
	host_invalidation_leave(vm);
}
