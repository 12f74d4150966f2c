/* The fault path: the driver, and the phases in their order. */
#include "src/fault/fault.h"

#include <errno.h>

#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/gfn/track.h"
#include "src/gmem/privacy.h"
#include "src/shadow/shadow.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

void fault_describe(const struct fault *fault, struct quire_memory_fault *told)
{
	told->flags = fault->private ? QUIRE_ATTRIBUTE_PRIVATE : 0;
	told->gpa = gpa_of(fault->gfn);
	told->size_bytes = QUIRE_PAGE_SIZE;
}

/* Tables come before any lock: the walk under mmu_lock must not sleep. */
static int take_tables(struct quire_vcpu *vcpu)
{
	if (vm_is_shadowed(vcpu->vm))
		return shadow_reserve(vcpu);
	return table_cache_fill(&vcpu->tables, &vcpu->vm->arena, TDP_WALK_TABLES);
}

int fault_resolve(struct quire_vcpu *vcpu, const struct fault *fault,
		  struct quire_memory_fault *told)
{
	struct found found = {0};
	int ret;

	locks_assert_none();
	if ((fault->error_code & QUIRE_PFERR_WRITE) && gfn_track_is_used(vcpu->vm))
		(void)fault_unprotect(vcpu, fault->gfn);
	if ((fault->error_code & QUIRE_PFERR_PRESENT) ||
	    entry_ages_by_faults(&vcpu->vm->tdp_format)) {
		ret = fault_fast(vcpu, fault);
		if (ret != FAULT_CONTINUE)
			return ret;
	}
	ret = take_tables(vcpu);
	if (ret)
		return ret;
	ret = fault_find_slot(vcpu, fault, &found, told);
	if (ret != FAULT_CONTINUE)
		return ret;
	if (!found.has_slot)
		return fault_no_slot(vcpu, fault, &found);
	ret = fault_find_page(vcpu, fault, &found, told);
	if (ret != FAULT_CONTINUE)
		return ret;
	if (vm_is_shadowed(vcpu->vm))
		ret = fault_install_direct(vcpu, fault, &found);
	else
		ret = fault_install(vcpu, fault, &found);
	/* It became a table of a nested guest meanwhile: the next fault unprotects it. */
	return ret == QUIRE_WRITE_PROTECTED ? QUIRE_RETRY : ret;
}

/*
 * A VM with software-protected memory has no way to say what an access meant: the attribute does.
 * Only shared addresses are emulated, so an access through an MMIO entry meant the shared one.
 */
int fault_is_private(struct quire_vcpu *vcpu, gfn_t gfn, u64 error_code)
{
	u64 attributes;

	locks_assert_none();
	if (error_code & QUIRE_PFERR_RSVD)
		return 0;
	if (!vm_has_private_mem(vcpu->vm))
		return (error_code & QUIRE_PFERR_PRIVATE) != 0;
	reclaim_enter();
	attributes = privacy_of_gfn(vcpu->vm, vcpu->as_id, gfn);
	reclaim_leave();
	return (attributes & QUIRE_ATTRIBUTE_PRIVATE) != 0;
}

static void count_outcome(struct quire_vcpu *vcpu, int ret)
{
	if (ret == QUIRE_FIXED)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_fixed);
	else if (ret == QUIRE_EMULATE)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_emulate);
	else if (ret == QUIRE_SPURIOUS)
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_spurious);
}

static struct fault fault_of(gpa_t gpa, u64 error_code)
{
	return (struct fault){
	    .gfn = gfn_of(gpa),
	    .error_code = error_code,
	};
}

int quire_vcpu_fault(struct quire_vcpu *vcpu, gpa_t gpa, uint64_t error_code,
		     struct quire_memory_fault *told)
{
	struct fault fault = fault_of(gpa, error_code);
	int ret = FAULT_CONTINUE;

	if (unlikely(!told))
		return -EINVAL;
	told->size_bytes = 0;
	if (vm_is_dead(vcpu->vm))
		return -EIO;
	QUIRE_TIMED(FAULT, BEGINS, 0);
	if (vcpu->nested.on) {
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_taken);
		ret = fault_nested(vcpu, gpa, &fault, told);
		count_outcome(vcpu, ret);
	} else if ((error_code & QUIRE_PFERR_RSVD) && !vm_is_shadowed(vcpu->vm)) {
		ret = fault_mmio_entry(vcpu, fault.gfn);
	}
	if (ret == FAULT_CONTINUE) {
		vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_taken);
		fault.private = fault_is_private(vcpu, fault.gfn, error_code);
		ret = fault_resolve(vcpu, &fault, told);
		count_outcome(vcpu, ret);
	}
	QUIRE_TIMED(FAULT, ENDS, (u64)(s64)ret);
	return ret;
}
