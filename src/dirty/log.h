/* Telling the log: whichever of bitmap and ring the slot uses. */
#ifndef QUIRE_DIRTY_LOG_H
#define QUIRE_DIRTY_LOG_H

#include "src/dirty/bitmap.h"
#include "src/dirty/ring.h"

/*
 * The page of @gfn was or may be written, by @vcpu (NULL: by nobody's vCPU, which a ring cannot
 * record). In a read section, after the right to write was given; see LOCKING.md for the order.
 */
static inline void dirty_log_mark(struct quire_vcpu *vcpu, const struct memslot *slot, gfn_t gfn)
{
	if (!(slot->flags & QUIRE_SLOT_LOG_DIRTY))
		return;
	if (slot->dirty)
		dirty_bitmap_mark(slot->dirty, gfn.v - slot->base_gfn.v);
	else if (vcpu && vcpu->ring.entries)
		dirty_ring_push(vcpu, (u32)slot->as_id << 16 | slot->id, gfn.v - slot->base_gfn.v);
}

#endif
