/* Appending to a dirty ring, and taking back what the client has read. */
#include "src/dirty/ring.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/trace.h"

#define ENTRY_DIRTY 1u
#define ENTRY_RESET 2u

/* False when there is no room: the soft limit was not heeded, a bug of ours. */
static bool append(struct dirty_ring *ring, u32 slot, u64 offset)
{
	u32 index = ring->dirty_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	if (dirty_ring_used(ring) >= ring->size)
		return false;
	atomic_store_relaxed_u32(&entry->slot, slot);
	atomic_store_relaxed_u64(&entry->offset, offset);
	/* In use before it is seen: what the client gives back at once must be there to reset. */
	atomic_store_relaxed_u32(&ring->dirty_index, index + 1);
	/* Partner: the client's acquire load of the flags. */
	atomic_store_release_u32(&entry->flags, ENTRY_DIRTY);
	ring->last_slot = slot;
	ring->last_offset = offset;
	return true;
}

void dirty_ring_push(struct quire_vcpu *vcpu, u32 slot, u64 offset)
{
	if (BROKEN(append(&vcpu->ring, slot, offset)))
		vm_poison(vcpu->vm);
	QUIRE_TRACE(kvm_dirty_ring_push, vcpu->id, vcpu->ring.dirty_index, vcpu->ring.reset_index,
		    slot, offset);
	if (dirty_ring_is_soft_full(&vcpu->ring))
		atomic_fetch_or_u64(&vcpu->mode.doorbell, QUIRE_REQ_DIRTY_RING_FULL);
}

void dirty_ring_push_own(struct quire_vcpu *vcpu, u32 slot, u64 offset)
{
	const struct dirty_ring *ring = &vcpu->ring;

	/* The write before the look. Partner: the flush of a reset, after it took the entry. */
	atomic_fence();
	if ((!dirty_ring_used(ring) && !MUTANT(own_joins_reset)) || ring->last_slot != slot ||
	    ring->last_offset != offset)
		dirty_ring_push(vcpu, slot, offset);
}

int dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset)
{
	u32 index = ring->reset_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	/* Partner: the client's release store of RESET. */
	if (!(atomic_load_acquire_u32(&entry->flags) & ENTRY_RESET))
		return -ENOENT;
	/* An entry that was never pushed: the client may write anything. */
	if (index == atomic_load_relaxed_u32(&ring->dirty_index))
		return -ENOENT;
	*slot = atomic_load_relaxed_u32(&entry->slot);
	*offset = atomic_load_relaxed_u64(&entry->offset);
	atomic_store_relaxed_u32(&entry->flags, 0);
	/* Partner: the acquire load in dirty_ring_used(). */
	atomic_store_release_u32(&ring->reset_index, index + 1);
	return 0;
}

int quire_vcpu_set_dirty_ring(struct quire_vcpu *vcpu, struct quire_ring_entry *entries)
{
	u32 ring_bytes;

	mutex_lock(&vcpu->vm->slots_lock);
	ring_bytes = vcpu->vm->ring_bytes;
	vcpu->ring.size = ring_bytes / sizeof(*entries);
	vcpu->ring.soft_limit = vcpu->ring.size - DIRTY_RING_RESERVED;
	vcpu->ring.entries = ring_bytes ? entries : NULL;
	mutex_unlock(&vcpu->vm->slots_lock);
	return ring_bytes ? 0 : -EINVAL;
}

int quire_vcpu_dirty_ring_is_full(const struct quire_vcpu *vcpu)
{
	return vcpu->ring.entries && dirty_ring_is_soft_full(&vcpu->ring);
}
