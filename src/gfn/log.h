/* Telling the log: whichever of bitmap and ring the slot uses. */
#ifndef QUIRE_GFN_LOG_H
#define QUIRE_GFN_LOG_H

#include "src/dirty/bitmap.h"
#include "src/dirty/ring.h"
#include "src/vm/locks.h"
#include "src/vm/vcpu.h"

/* What a ring calls the slot. */
static inline u32 dirty_log_slot(const struct memslot *slot)
{
	return (u32)slot->as_id << 16 | slot->id;
}

/* --- any lock --- */

/* Append to the vCPU's ring; by its own thread. At the soft limit the doorbell rings. */
void dirty_log_push(struct quire_vcpu *vcpu, u32 slot, u64 offset);

/* May the library write for the vCPU? The guest stops at the soft limit, the client's calls do not.
 */
static inline bool dirty_log_takes_own(const struct quire_vcpu *vcpu)
{
	const struct dirty_ring *ring = &vcpu->ring;

	return !ring->entries || dirty_ring_used(ring) < ring->size - DIRTY_RING_SPARE;
}

/* --- mmu_lock in either mode, in shared mode in a read section --- */

/* @vcpu may write the page of @gfn: after the right was given, see LOCKING.md. (I-61) */
static inline void dirty_log_mark(struct quire_vcpu *vcpu, const struct memslot *slot, gfn_t gfn)
{
	mmu_assert_shared(vcpu->vm);
	if (!(slot->flags & QUIRE_SLOT_LOG_DIRTY))
		return;
	if (slot->dirty)
		dirty_bitmap_mark(slot->dirty, gfn.v - slot->base_gfn.v);
	else if (vcpu->ring.entries)
		dirty_log_push(vcpu, dirty_log_slot(slot), gfn.v - slot->base_gfn.v);
}

/* --- no lock, no read section --- */

/*
 * The library has written the page of @gfn, for @vcpu or (NULL) for no vCPU, which a ring
 * cannot record. After the write, out of guest mode; takes mmu_lock shared if there is a bit to be
 * set. Issues a full fence. Writers for a vCPU ask dirty_log_takes_own() before they write. Call it
 * inside the write's section of vm->accesses: after that the slot may be another.
 */
void dirty_log_mark_own(struct quire_vm *vm, struct quire_vcpu *vcpu, u32 as_id, gfn_t gfn);

#endif
