/* The dirty ring of one vCPU, as data: appending to it, and taking back what the client has read.
 */
#ifndef QUIRE_DIRTY_RING_H
#define QUIRE_DIRTY_RING_H

#include <quire/dirty.h>

#include "src/base/atomic.h"

/*
 * The vCPU appends at dirty_index, the client marks what it has read, a reset frees from
 * reset_index on. The two indices grow for ever; their difference is what is in use.
 *
 *   vCPU                        client                    reset (slots_lock)
 *   slot, offset, dirty_index++
 *   flags = DIRTY (release) ->  flags (acquire): DIRTY
 *                               read slot, offset
 *                               flags = RESET (release) -> flags (acquire): RESET
 *                                                         read slot, offset; flags = 0
 *   reset_index (acquire)   <-                            reset_index++ (release)
 *
 * The client may write anything into the entries: nothing here trusts them further than the
 * bounds of a slot.
 */
struct dirty_ring {
	struct quire_ring_entry *entries; /* the client's mapping too; NULL: no ring */
	u32 size;			  /* entries, a power of two */
	u32 soft_limit;			  /* full for the vCPU at this many */
	u32 dirty_index;		  /* (a) written by the vCPU's thread */
	u32 last_slot;			  /* what the newest entry says: the vCPU's thread's */
	u64 last_offset;
	u32 reset_index; /* (a) written under slots_lock */
};

/* Entries kept free for what one guest access may dirty after the soft limit. */
#define DIRTY_RING_RESERVED 64u
/* Of these, what the library's own writes leave: a guest access may be waiting to be finished. */
#define DIRTY_RING_SPARE 32u

static inline u32 dirty_ring_used(const struct dirty_ring *ring)
{
	return atomic_load_relaxed_u32(&ring->dirty_index) -
	       atomic_load_acquire_u32(&ring->reset_index);
}

static inline bool dirty_ring_is_soft_full(const struct dirty_ring *ring)
{
	return dirty_ring_used(ring) >= ring->soft_limit;
}

/* Append; by the vCPU's own thread. Zero: no room, so the soft limit was not heeded. */
must_check int dirty_ring_append(struct dirty_ring *ring, u32 slot, u64 offset);

/* Take the next entry that the client gave back; -ENOENT when there is none. Under slots_lock. */
must_check int dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset);

#endif
