/* Telling the log of the library's own writes. */
#include "src/gfn/log.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"
#include "src/vm/locks.h"

void dirty_log_push(struct quire_vcpu *vcpu, u32 slot, u64 offset)
{
	CHECK(vcpu->ring.entries);
	if (BROKEN(dirty_ring_append(&vcpu->ring, slot, offset)))
		vm_poison(vcpu->vm);
	QUIRE_TRACE(kvm_dirty_ring_push, vcpu->id, vcpu->ring.dirty_index, vcpu->ring.reset_index,
		    slot, offset);
	if (dirty_ring_is_soft_full(&vcpu->ring))
		atomic_fetch_or_relaxed_u64(&vcpu->mode.doorbell, QUIRE_REQ_DIRTY_RING_FULL);
}

/* In a section, whose full fence comes after the write and before the look here. Partner: the flush
 * of a reset, after it took the entry. */
static void push_own(struct quire_vcpu *vcpu, u32 slot, u64 offset)
{
	const struct dirty_ring *ring = &vcpu->ring;

	if ((!dirty_ring_used(ring) && !MUTANT(own_joins_reset)) || ring->last_slot != slot ||
	    ring->last_offset != offset)
		dirty_log_push(vcpu, slot, offset);
}

/*
 * Must a bit be set? A ring is told here, for it is the vCPU's own. The section begins with a full
 * fence, so a bit that is found set is taken, if at all, by a harvest whose client reads the page
 * after the library's write.
 */
static bool lacks_bit(struct quire_vm *vm, struct quire_vcpu *vcpu, u32 as_id, gfn_t gfn)
{
	const struct memslot *slot;
	bool lacks = false;

	reclaim_enter();
	slot = memslot_lookup(vm, as_id, gfn, NULL);
	if (slot && (slot->flags & QUIRE_SLOT_LOG_DIRTY)) {
		u64 index = gfn.v - slot->base_gfn.v;

		if (slot->dirty)
			lacks = !dirty_bitmap_has(slot->dirty, index);
		else if (vcpu && vcpu->ring.entries)
			push_own(vcpu, dirty_log_slot(slot), index);
	}
	reclaim_leave();
	return lacks;
}

static void set_bit(struct quire_vm *vm, u32 as_id, gfn_t gfn)
{
	const struct memslot *slot;

	reclaim_enter();
	/* Another one, perhaps: then its log is new. */
	slot = memslot_lookup(vm, as_id, gfn, NULL);
	if (slot && slot->dirty)
		dirty_bitmap_mark(slot->dirty, gfn.v - slot->base_gfn.v);
	reclaim_leave();
}

void dirty_log_mark_own(struct quire_vm *vm, struct quire_vcpu *vcpu, u32 as_id, gfn_t gfn)
{
	struct biglock_line *line = vcpu ? &vcpu->line : NULL;

	locks_assert_none();
	if (!lacks_bit(vm, vcpu, as_id, gfn))
		return;
	if (MUTANT(own_mark_unlocked)) {
		set_bit(vm, as_id, gfn);
		return;
	}
	biglock_read_lock(&vm->mmu_lock, line);
	set_bit(vm, as_id, gfn);
	biglock_read_unlock(&vm->mmu_lock, line);
}
