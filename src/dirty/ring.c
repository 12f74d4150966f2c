/* Appending to a dirty ring, and taking back what the client has read. */
#include "src/dirty/ring.h"

#define ENTRY_DIRTY 1u
#define ENTRY_RESET 2u

bool dirty_ring_push(struct dirty_ring *ring, u32 slot, u64 offset)
{
	u32 index = ring->dirty_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	if (dirty_ring_used(ring) >= ring->size)
		return false;
	atomic_store_relaxed_u32(&entry->slot, slot);
	atomic_store_relaxed_u64(&entry->offset, offset);
	/* Partner: the client's acquire load of the flags. */
	atomic_store_release_u32(&entry->flags, ENTRY_DIRTY);
	atomic_store_relaxed_u32(&ring->dirty_index, index + 1);
	return true;
}

bool dirty_ring_take_reset(struct dirty_ring *ring, u32 *slot, u64 *offset)
{
	u32 index = ring->reset_index;
	struct quire_ring_entry *entry = &ring->entries[index & (ring->size - 1)];

	if (index == atomic_load_relaxed_u32(&ring->dirty_index))
		return false;
	/* Partner: the client's release store of RESET. */
	if (!(atomic_load_acquire_u32(&entry->flags) & ENTRY_RESET))
		return false;
	*slot = atomic_load_relaxed_u32(&entry->slot);
	*offset = atomic_load_relaxed_u64(&entry->offset);
	atomic_store_relaxed_u32(&entry->flags, 0);
	/* Partner: the acquire load in dirty_ring_used(). */
	atomic_store_release_u32(&ring->reset_index, index + 1);
	return true;
}
