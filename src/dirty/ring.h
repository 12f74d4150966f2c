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

/*
 * The same for a page that the library has written. Nothing is appended while the newest entry
 * says so already and is not reset: the client reads the page after the reset. Full fence.
 */
void dirty_ring_push_own(struct quire_vcpu *vcpu, u32 slot, u64 offset);

/* May the library write for the vCPU? The guest stops at the soft limit, the client's calls do not.
 */
static inline bool dirty_ring_takes_own(const struct quire_vcpu *vcpu)
{
	const struct dirty_ring *ring = &vcpu->ring;

	return !ring->entries || dirty_ring_used(ring) < ring->size - DIRTY_RING_SPARE;
}

/* Take the next entry that the client gave back; -ENOENT when there is none. Under slots_lock. */
must_check int dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset);

#endif
