/* Telling the log: whichever of bitmap and ring the slot uses. */
#ifndef QUIRE_DIRTY_LOG_H
#define QUIRE_DIRTY_LOG_H

#include "src/dirty/bitmap.h"
#include "src/dirty/ring.h"

/* What a ring calls the slot. */
static inline u32 dirty_log_slot(const struct memslot *slot)
{
	return (u32)slot->as_id << 16 | slot->id;
}

/*
 * The page of @gfn may be written by @vcpu. In a read section under mmu_lock in either mode, after
 * the right to write was given; see LOCKING.md for the order.
 */
static inline void dirty_log_mark(struct quire_vcpu *vcpu, const struct memslot *slot, gfn_t gfn)
{
	if (!(slot->flags & QUIRE_SLOT_LOG_DIRTY))
		return;
	if (slot->dirty)
		dirty_bitmap_mark(slot->dirty, gfn.v - slot->base_gfn.v);
	else if (vcpu->ring.entries)
		dirty_ring_push(vcpu, dirty_log_slot(slot), gfn.v - slot->base_gfn.v);
}

/*
 * The library has written the page of @gfn, for @vcpu or (NULL) for nobody's vCPU, which a ring
 * cannot record. After the write, out of guest mode, no lock held and in no read section; takes
 * mmu_lock shared if there is a bit to be set. Writers for a vCPU ask dirty_ring_takes_own() before
 * they write. In the section of vm->accesses that the write is in, or another slot may be there.
 */
void dirty_log_mark_own(struct quire_vm *vm, struct quire_vcpu *vcpu, u32 as_id, gfn_t gfn);

#endif
