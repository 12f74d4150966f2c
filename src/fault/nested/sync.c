/* Bringing shadow pages up to date with the guest's tables, which are read without a lock. */
#include "src/base/mutant.h"
#include "src/change/change.h"
#include "src/fault/fault.h"
#include "src/shadow/shadow.h"
#include "src/vm/locks.h"

/* The first step of a batch: from here on each write to the tables of its pages faults. */
static void sync_begin(struct quire_vcpu *vcpu, struct shadow_sync *sync)
{
	struct quire_vm *vm = vcpu->vm;
	struct flush_debt debt;

	change_lock(vm, &debt);
	CHECK(!sync->count);
	if (shadow_root_is_valid(vcpu)) {
		struct shadow_change change = shadow_change_of(vcpu, &debt);

		sync->root = vcpu->shadow.page;
		for (u32 i = shadow_sync_begin(&change, sync); i-- > 0;)
			tdp_zap_range(vm, 1u << vcpu->as_id, sync->pages[i].key.gfn,
				      (gfn_t){sync->pages[i].key.gfn.v + 1}, &debt);
	}
	if (MUTANT(sync_unflushed))
		flush_debt_forgive(&debt, "a known bug");
	change_settle_unlock(vm, &debt);
}

static void sync_end(struct quire_vcpu *vcpu, struct shadow_sync *sync)
{
	struct quire_vm *vm = vcpu->vm;
	struct shadow_change change;
	struct flush_debt debt;

	change_lock(vm, &debt);
	change = shadow_change_of(vcpu, &debt);
	shadow_sync_end(&change, vcpu, sync);
	change_settle_unlock(vm, &debt);
}

/* Those that begin to lag after this has begun are none of ours. */
int fault_sync(struct quire_vcpu *vcpu, const struct shadow_key *only)
{
	struct shadow_sync sync = {.only = only};
	u64 left = atomic_load_relaxed_u64(&vcpu->vm->shadow->unsync_pages);
	u32 count;

	locks_assert_none();
	do {
		int err = shadow_reserve(vcpu);

		if (err)
			return err;
		sync_begin(vcpu, &sync);
		count = sync.count;
		if (!count)
			break;
		shadow_sync_read(vcpu, &sync);
		sync_end(vcpu, &sync);
		left -= min_u64(left, count);
	} while (left && count == SHADOW_SYNC_BATCH);
	return 0;
}
