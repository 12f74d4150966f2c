/* A gfn that is write-tracked is about to be written. */
#include "src/change/change.h"
#include "src/fault/fault.h"
#include "src/gfn/track.h"
#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

enum fault_unprotected fault_unprotect(struct quire_vcpu *vcpu, gfn_t gfn)
{
	struct quire_vm *vm = vcpu->vm;
	struct flush_debt debt;
	int tracked, lags;

	locks_assert_none();
	biglock_read_lock(&vm->mmu_lock, &vcpu->line);
	tracked = gfn_is_tracked(vm, vcpu->as_id, gfn);
	biglock_read_unlock(&vm->mmu_lock, &vcpu->line);
	if (!tracked)
		return UNPROTECTED_KEPT;
	change_lock(vm, &debt);
	lags = shadow_unsync(vm, vcpu->as_id, gfn);
	if (!lags)
		(void)shadow_zap_gfn(vm, vcpu->as_id, gfn, &debt);
	CHECK(!gfn_is_tracked(vm, vcpu->as_id, gfn));
	change_settle_unlock(vm, &debt);
	return lags ? UNPROTECTED_KEPT : UNPROTECTED_ZAPPED;
}
