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
 * The page of @gfn may be written by @vcpu. In a read section, after the right to write was given;
 * see LOCKING.md for the order.
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
 * cannot record. In a read section, after the write. Writers for a vCPU ask dirty_ring_takes_own()
 * before they write.
 */
static inline void dirty_log_mark_own(struct quire_vcpu *vcpu, const struct memslot *slot,
				      gfn_t gfn)
{
	if (!(slot->flags & QUIRE_SLOT_LOG_DIRTY))
		return;
	if (slot->dirty)
		dirty_bitmap_mark(slot->dirty, gfn.v - slot->base_gfn.v);
	else if (vcpu && vcpu->ring.entries)
		dirty_ring_push_own(vcpu, dirty_log_slot(slot), gfn.v - slot->base_gfn.v);
}

#endif
