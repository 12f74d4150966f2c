/* Into guest mode and out of it: the root is loaded on the way. */
#include <errno.h>

#include "src/fault/fault.h"
#include "src/base/mutant.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

/* The table to walk, and what its words mean: the TDP MMU's or a shadow page. */
static int load_stage2(struct quire_vcpu *vcpu, struct quire_stage2 *stage2)
{
	CHECK(!guest_mode_is_on(&vcpu->mode));
	CHECK(vcpu->as_id < vcpu->vm->address_spaces);
	if (unlikely(vcpu->nested.on || vm_is_shadowed(vcpu->vm))) {
		bool ready = shadow_root_is_valid(vcpu) && !vcpu->shadow.lags;
		int err = likely(ready) ? 0 : fault_load_shadow_root(vcpu);

		if (err)
			return err;
		CHECK(vcpu->shadow.entries && !vcpu->shadow.lags);
		stage2->format = &vcpu->vm->shadow_walk;
		stage2->root_level = (enum quire_level)vcpu->shadow.level;
		stage2->root = vcpu->shadow.entries;
		stage2->root_physical =
		    entry_table_address(&vcpu->vm->shadow_format.tables, stage2->root);
		return 0;
	}
	vcpu->root = tdp_root_get(vcpu->vm, &vcpu->tables, vcpu->as_id);
	if (unlikely(!vcpu->root))
		return -ENOMEM;
	stage2->format = &vcpu->vm->tdp_walk;
	stage2->root_level = (enum quire_level)vcpu->vm->tdp_format.root_level;
	stage2->root = table_entries(vcpu->root);
	stage2->root_physical = entry_table_address(&vcpu->vm->tdp_format.tables, stage2->root);
	return 0;
}

/*
 * 1. Load the valid root of the address space, making one if there is none.
 * 2. Be in guest mode: a full fence.
 * 3. Take the requests. RELOAD among them: the root of step 1 may be gone, start over.
 * 4. Is guest mode closed? Out again, and start over when it is open.
 * An invalidator first makes a root unfindable, then raises RELOAD: a vCPU that loaded
 * the old root sees the request in step 3, or is seen in guest mode and waited for.
 */
int quire_vcpu_enter(struct quire_vcpu *vcpu, uint64_t *requests, struct quire_stage2 *stage2)
{
	struct quire_vm *vm = vcpu->vm;

	if (unlikely(!requests || !stage2))
		return -EINVAL;
	locks_assert_none();
	*requests = 0;
	for (;;) {
		u64 taken;
		int err;

		if (vm_is_dead(vm))
			return -EIO;
		err = load_stage2(vcpu, stage2);
		if (unlikely(err)) {
			/* What an earlier turn took is still owed. */
			atomic_fetch_or_relaxed_u64(&vcpu->mode.doorbell,
						    *requests & LIBRARY_REQUESTS);
			return err;
		}
		taken = guest_mode_enter(&vcpu->mode);
		*requests |= taken;
		/* A new root is a new set of translations. */
		if ((taken & QUIRE_REQ_RELOAD) && !MUTANT(reload_ignored))
			*requests |= MUTANT(reload_unflushed) ? 0 : QUIRE_REQ_TLB_FLUSH;
		else if (likely(!atomic_load_acquire_u32(&vm->flush.closed)))
			break;
		guest_mode_leave(&vcpu->mode);
		flush_domain_wait_open(&vm->flush);
	}
	/* So is going over to L2, or back, or to other nested tables. */
	if (unlikely(vcpu->entered != stage2->root)) {
		if (vcpu->entered && !MUTANT(reload_unflushed))
			*requests |= QUIRE_REQ_TLB_FLUSH;
		vcpu->entered = stage2->root;
	}
	if (*requests & QUIRE_REQ_TLB_FLUSH)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_tlb_flush);
	CHECK(guest_mode_is_on(&vcpu->mode) && vcpu->entered == stage2->root);
	return 0;
}

void quire_vcpu_leave(struct quire_vcpu *vcpu)
{
	guest_mode_leave(&vcpu->mode);
}
