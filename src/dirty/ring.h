/* Appending to a dirty ring, and taking back what the client has read. */
#ifndef QUIRE_DIRTY_RING_H
#define QUIRE_DIRTY_RING_H

#include "src/vm/vcpu.h"

static inline u32 dirty_ring_used(const struct dirty_ring *ring)
{
	return atomic_load_relaxed_u32(&ring->dirty_index) -
	       atomic_load_acquire_u32(&ring->reset_index);
}

static inline bool dirty_ring_is_soft_full(const struct dirty_ring *ring)
{
	return dirty_ring_used(ring) >= ring->soft_limit;
}

/* Append to the vCPU's ring; by its own thread. At the soft limit the doorbell rings. */
void dirty_ring_push(struct quire_vcpu *vcpu, u32 slot, u64 offset);

/* Take the next entry that the client gave back; -ENOENT when there is none. Under slots_lock. */
must_check int dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset);

#endif
