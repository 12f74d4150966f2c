/* NX huge pages: the workaround on and off, and huge pages coming back after the guest has left. */
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/change/change.h"
#include "src/gfn/level.h"
#include "src/vm/locks.h"

static void switch_locked(struct quire_vm *vm, u32 on)
{
	struct flush_debt debt;

	slots_assert(vm);
	CHECK(on <= 1 && atomic_load_relaxed_u32(&vm->nx.on) != on);
	biglock_write_lock(&vm->mmu_lock);
	/* A fault reads it under the lock: what it maps from here on is right. */
	atomic_store_relaxed_u32(&vm->nx.on, on);
	change_zap_all_begin(vm, &debt);
	change_flush_unlock(vm);
	change_zap_all_end(vm, &debt);
}

void quire_vm_set_nx_huge_pages(struct quire_vm *vm, int on)
{
	u32 want = on != 0;

	if (atomic_load_relaxed_u32(&vm->nx.on) == want)
		return;
	mutex_lock(&vm->slots_lock);
	if (atomic_load_relaxed_u32(&vm->nx.on) != want)
		switch_locked(vm, want);
	mutex_unlock(&vm->slots_lock);
}

/* A logged slot has 4K leaves anyway: zapping would only cost faults. */
static bool is_logged(struct quire_vm *vm, const struct nx_range *range)
{
	const struct memslot *slot;
	bool logged;

	reclaim_enter();
	slot = memslot_lookup(vm, range->as_id, range->start, NULL);
	logged = slot && (slot->flags & QUIRE_SLOT_LOG_DIRTY);
	reclaim_leave();
	return logged;
}

/* The table that was named, of the MMU that it belongs to: the other has no part in it. */
static void zap_named(struct quire_vm *vm, const struct nx_range *range, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock)
{
	if (range->shadow)
		shadow_zap_table(vm, range->shadow, debt);
	else
		tdp_zap_range(vm, 1u << range->as_id, range->start, range->end, debt);
}

/* Tables recovered in one hold of mmu_lock. One of shadow pages goes leaf by leaf. */
#define RECOVER_BATCH 64u
#define RECOVER_SHADOW (RECOVER_BATCH / 2)

/* The next tables of the list, as many as one hold is for. False: it has no more. */
static bool recover_some(struct quire_vm *vm, u64 want, u64 *done, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock)
{
	struct nx_range range;

	mmu_assert_exclusive(vm);
	for (u32 cost = 0; cost < RECOVER_BATCH && *done < want; ++*done) {
		if (!nx_list_pop(vm, &range))
			return false;
		cost += range.shadow ? RECOVER_SHADOW : 1;
		if (!is_logged(vm, &range))
			zap_named(vm, &range, debt);
	}
	return true;
}

uint64_t quire_vm_recover_nx_pages(struct quire_vm *vm, uint32_t ratio)
{
	u64 listed = atomic_load_relaxed_u64(&vm->stats[QUIRE_VM_STAT_nx_lpage_splits]);
	u64 want = ratio ? (listed + ratio - 1) / ratio : 0, done = 0;
	bool more = true;

	while (done < want && more) {
		struct flush_debt debt;

		change_lock(vm, &debt);
		more = recover_some(vm, want, &done, &debt);
		change_pay_unlock(vm, &debt, MUTANT(nx_unflushed), MUTANT(nx_late));
		tdp_debt_settle(vm, &debt);
	}
	return done;
}
