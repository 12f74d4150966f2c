/* Into guest mode and out of it: the root is loaded on the way. */
#include <errno.h>

#include "src/fault/fault.h"
#include "src/tdp/tdp.h"

/*
 * 1. Load the valid root of the address space, making one if there is none.
 * 2. Be in guest mode: a full fence.
 * 3. Take the requests. RELOAD among them: the root of step 1 may be gone, start over.
 * Whoever invalidates a root first makes it unfindable, then raises RELOAD: a vCPU that loaded
 * the old root sees the request in step 3, or is seen in guest mode and waited for.
 */
int quire_vcpu_enter(struct quire_vcpu *vcpu, uint64_t *requests, struct quire_stage2 *stage2)
{
	struct quire_vm *vm = vcpu->vm;

	*requests = 0;
	for (;;) {
		u64 taken;

		if (unlikely(quire_vm_is_dead(vm)))
			return -EIO;
		vcpu->root = tdp_root_get(vm, &vcpu->tables, vcpu->as_id);
		if (unlikely(!vcpu->root))
			return -ENOMEM;
		taken = guest_mode_enter(&vcpu->mode);
		*requests |= taken;
		if (likely(!(taken & QUIRE_REQ_RELOAD)))
			break;
		/* A new root is a new set of translations. */
		*requests |= QUIRE_REQ_TLB_FLUSH;
		guest_mode_leave(&vcpu->mode);
	}
	if (*requests & QUIRE_REQ_TLB_FLUSH)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_tlb_flush);
	stage2->format = vm->format;
	stage2->root = table_entries(vcpu->root);
	stage2->root_level = TDP_ROOT_LEVEL;
	return 0;
}

void quire_vcpu_leave(struct quire_vcpu *vcpu)
{
	guest_mode_leave(&vcpu->mode);
}
