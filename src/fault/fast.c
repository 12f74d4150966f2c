/* The fast path: what dirty logging or aging took from a leaf comes back without a lookup. */
#include "src/fault/fault.h"

#include "src/base/mutant.h"
#include "src/base/trace.h"
#include "src/gfn/log.h"
#include "src/tdp/tdp.h"
#include "src/vm/locks.h"

/* Attempts before the slow path takes over. */
#define FAST_TRIES 4u

static bool rights_permit(const struct entry_format *f, u64 entry, const struct fault *fault)
{
	if (fault->error_code & QUIRE_PFERR_WRITE)
		return entry_is_readable(f, entry) && entry_is_writable(f, entry);
	/* It was aged: formats that have execute-only leaves do not age by faults. */
	if (!entry_is_readable(f, entry))
		return false;
	return !(fault->error_code & QUIRE_PFERR_FETCH) ||
	       entry_allows_fetch(f, entry, fault->error_code);
}

/*
 * What the leaf @old becomes for @fault: what aging took comes back, and W where nothing of ours
 * but dirty logging or aging took it. 0: that is not enough.
 */
static u64 restored(const struct quire_vm *vm, u64 old, const struct fault *fault)
{
	const struct entry_format *f = &vm->tdp_format;
	u64 required = f->host_writable | f->mmu_writable;
	u64 new = entry_ages_by_faults(f) ? entry_make_young(f, old) : old;

	if (MUTANT(restore_forgets_x) && new != old)
		new &= ~f->executable;
	if (fault->error_code & QUIRE_PFERR_WRITE)
		return (old & required) == required ? new | f->writable | f->dirty : 0;
	return rights_permit(f, new, fault) ? new : 0;
}

static int fast_one(struct quire_vcpu *vcpu, struct table *root, const struct memslot *slot,
		    const struct fault *fault)
{
	struct quire_vm *vm = vcpu->vm;
	const struct entry_format *f = &vm->tdp_format;
	struct tdp_change change = {.vm = vm, .leaves = vcpu->leaves};
	u32 level;
	u64 *entry = tdp_find(vm, root, fault->gfn, &level);
	u64 old = atomic_load_relaxed_u64(entry), new;

	if (!entry_is_present(f, old) || !entry_is_leaf(f, old, level))
		return FAULT_CONTINUE;
	if (rights_permit(f, old, fault))
		return QUIRE_SPURIOUS;
	/* A huge leaf of a logged slot must be split: one mark cannot stand for 512 pages. */
	if ((fault->error_code & QUIRE_PFERR_WRITE) && level > QUIRE_LEVEL_4K &&
	    (slot->flags & QUIRE_SLOT_LOG_DIRTY))
		return FAULT_CONTINUE;
	new = restored(vm, old, fault);
	if (!new)
		return FAULT_CONTINUE;
	CHECK(entry_same_pfn(f, new, old) && rights_permit(f, new, fault));
	CHECK(!(fault->error_code & QUIRE_PFERR_WRITE) || !(slot->flags & QUIRE_SLOT_READONLY));
	if ((fault->error_code & QUIRE_PFERR_WRITE) && MUTANT(fast_marks_first))
		dirty_log_mark(vcpu, slot, fault->gfn);
	if (!tdp_change_entry(&change, entry, level, &old, new))
		return QUIRE_RETRY;
	/*
	 * Mark after W is set (I-60): a harvest that clears the mark removes W again afterwards,
	 * and its flush makes the vCPU come back here. Before it, the harvest could take the mark
	 * with W still off, and the write that follows would go unseen.
	 */
	if ((fault->error_code & QUIRE_PFERR_WRITE) && !MUTANT(fast_marks_first))
		dirty_log_mark(vcpu, slot, fault->gfn);
	QUIRE_TRACE(fast_page_fault, vcpu->id, gpa_of(fault->gfn).v,
		    fault->error_code & ~QUIRE_PFERR_NOWAIT, (u64)(uintptr_t)entry, old, new,
		    QUIRE_FIXED);
	vcpu_count(vcpu, QUIRE_VCPU_STAT_pf_fast);
	return QUIRE_FIXED;
}

/* An entry that lacks W, or one that was aged, where a use of that faults. */
static bool may_be_fast(const struct quire_vm *vm, const struct fault *fault)
{
	if (vm_is_shadowed(vm) || fault->private || fault->prefault || MUTANT(fast_fault_off))
		return false;
	return ((fault->error_code & QUIRE_PFERR_PRESENT) &&
		(fault->error_code & QUIRE_PFERR_WRITE)) ||
	       entry_ages_by_faults(&vm->tdp_format);
}

/*
 * mmu_lock is shared, against a harvest that protects with plain stores (tdp_protect_entries());
 * other faults may change the entry meanwhile, and the compare-exchange notices. The slot may be
 * replaced while we look at it, which is as if the fault had come a moment earlier: the update
 * that replaces it zaps or protects after a grace period, and finds what was set here.
 */
int fault_fast(struct quire_vcpu *vcpu, const struct fault *fault)
{
	struct quire_thread *self;
	int ret = QUIRE_RETRY;

	locks_assert_none();
	if (!may_be_fast(vcpu->vm, fault))
		return FAULT_CONTINUE;
	self = biglock_read_enter(&vcpu->vm->mmu_lock, &vcpu->line);
	for (u32 tries = 0; tries < FAST_TRIES && ret == QUIRE_RETRY; tries++) {
		struct table *root = atomic_load_acquire_ptr(&vcpu->vm->roots.valid[vcpu->as_id]);
		const struct memslot *slot =
		    memslot_lookup(vcpu->vm, vcpu->as_id, fault->gfn, &vcpu->hint);

		if (!root || root != vcpu->root || !slot || (slot->flags & MEMSLOT_INVALID))
			ret = FAULT_CONTINUE;
		else
			ret = fast_one(vcpu, root, slot, fault);
	}
	biglock_read_exit(&vcpu->vm->mmu_lock, &vcpu->line, self);
	return ret == QUIRE_RETRY ? FAULT_CONTINUE : ret;
}
