/* Phase 1 of a fault: which slot, and is the access what the attributes say? */
#include "src/fault/fault.h"

#include <errno.h>

#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/gmem/privacy.h"
#include "src/vm/locks.h"

/* The guest's view of the gfn and the attribute disagree, or a private page has no home. */
static int refuse(const struct fault *fault, struct quire_memory_fault *told)
{
	fault_describe(fault, told);
	return -EFAULT;
}

static bool privacy_mismatch(const struct quire_vm *vm, const struct fault *fault,
			     const struct memslot *slot)
{
	bool attribute = privacy_get(vm, slot, fault->gfn) & QUIRE_ATTRIBUTE_PRIVATE;

	return fault->private != attribute;
}

/* The attribute said what the access meant. Where both differ it has changed since: ask again. */
static bool attribute_decides(const struct quire_vm *vm, const struct fault *fault)
{
	return vm_has_private_mem(vm) && !(fault->error_code & QUIRE_PFERR_RSVD);
}

static int copy_slot(const struct memslot *slot, const struct fault *fault, struct found *found)
{
	found->has_slot = true;
	found->slot_flags = slot->flags;
	found->hva = memslot_hva(slot, fault->gfn);
	found->from_gmem = fault->private || (slot->flags & MEMSLOT_GMEM_ONLY);
	if (!found->from_gmem)
		return FAULT_CONTINUE;
	return gmem_lookup_begin(slot, fault->gfn, fault->private ? GMEM_PRIVATE : GMEM_SHARED,
				 &found->gmem);
}

static int look_slot_up(struct quire_vcpu *vcpu, const struct fault *fault, struct found *found,
			struct quire_memory_fault *told)
{
	struct quire_vm *vm = vcpu->vm;
	const struct memslot *slot;
	int ret;

	found->generation = memslots_generation(vm, vcpu->as_id);
	slot = memslot_lookup(vm, vcpu->as_id, fault->gfn, &vcpu->hint);
	if (privacy_mismatch(vm, fault, slot) && !MUTANT(privacy_unchecked))
		return attribute_decides(vm, fault) ? QUIRE_RETRY : refuse(fault, told);
	if (!slot)
		return fault->private ? refuse(fault, told) : FAULT_CONTINUE;
	if ((slot->flags & MEMSLOT_INVALID) && !MUTANT(invalid_slot_used))
		return fault->prefault ? -EAGAIN : QUIRE_RETRY;
	ret = copy_slot(slot, fault, found);
	if (ret)
		fault_describe(fault, told);
	return ret;
}

/*
 * What an earlier fault copied of its slot, if that is published still and holds this gfn, too. No
 * slot and no tree is looked at, so no read section is needed (docs/LOCKING.md).
 */
static bool slot_of_hint(struct quire_vcpu *vcpu, const struct fault *fault, struct found *found)
{
	const struct quire_vm *vm = vcpu->vm;
	const struct memslot_hint *hint = &vcpu->hint;

	/* Without a range every gfn has attributes 0. The snapshot was taken before (acquire): a
	 * change of attributes that this does not see makes it old. */
	if (fault->private || atomic_load_relaxed_ptr(&vm->attributes.ranges.root))
		return false;
	if (!memslot_hint_holds(&vm->slots, vcpu->as_id, hint, fault->gfn) &&
	    !MUTANT(hint_unchecked))
		return false;
	if (hint->flags & (MEMSLOT_INVALID | MEMSLOT_GMEM_ONLY))
		return false;
	found->generation = hint->generation;
	found->has_slot = true;
	found->slot_flags = hint->flags;
	found->hva = memslot_hint_hva(hint, fault->gfn);
	return true;
}

int fault_find_slot(struct quire_vcpu *vcpu, const struct fault *fault, struct found *found,
		    struct quire_memory_fault *told)
{
	int ret;

	locks_assert_none();
	/* I-55. Before anything is looked up, so that a change after this is noticed at the end. */
	found->snapshot = invalidation_snapshot(&vcpu->vm->invalidation);
	if (likely(slot_of_hint(vcpu, fault, found)))
		return FAULT_CONTINUE;
	reclaim_enter();
	ret = look_slot_up(vcpu, fault, found, told);
	reclaim_leave();
	return ret;
}
