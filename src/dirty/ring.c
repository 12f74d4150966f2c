/* Appending to a dirty ring, and taking back what the client has read. */
#include "src/dirty/ring.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/lock.h"

#define ENTRY_DIRTY 1u
#define ENTRY_RESET 2u

int dirty_ring_append(struct dirty_ring *ring, u32 slot, u64 offset)
{
	u32 index = ring->dirty_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	CHECK(ring->size && !(ring->size & (ring->size - 1)));
	CHECK(dirty_ring_used(ring) <= ring->size);
	if (dirty_ring_used(ring) >= ring->size)
		return 0;
	atomic_store_relaxed_u32(&entry->slot, slot);
	atomic_store_relaxed_u64(&entry->offset, offset);
	/* In use before it is seen: what the client gives back at once must be there to reset. */
	atomic_store_relaxed_u32(&ring->dirty_index, index + 1);
	/* Partner: the client's acquire load of the flags. */
	atomic_store_release_u32(&entry->flags, ENTRY_DIRTY);
	ring->last_slot = slot;
	ring->last_offset = offset;
	return 1;
}

int dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset)
{
	u32 index = ring->reset_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	CHECK(lock_rank_is_held(RANK_SLOTS));
	CHECK(dirty_ring_used(ring) <= ring->size);
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
