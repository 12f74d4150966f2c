/* The largest level at which a gfn may be mapped. */
#ifndef QUIRE_GFN_LEVEL_H
#define QUIRE_GFN_LEVEL_H

#include "src/base/mutant.h"
#include "src/vm/vm.h"

/* The level that the flags of @slot allow: what is logged is logged page by page. */
static inline enum quire_level gfn_level_of_flags(const struct memslot *slot)
{
	bool logged = (slot->flags & QUIRE_SLOT_LOG_DIRTY) && !MUTANT(log_start_huge);

	return logged ? QUIRE_LEVEL_4K : QUIRE_LEVEL_1G;
}

/* The level that a backing order (log2 of pages) allows. */
static inline enum quire_level level_of_order(u32 order)
{
	if (order >= 2 * QUIRE_TABLE_BITS)
		return QUIRE_LEVEL_1G;
	return order >= QUIRE_TABLE_BITS ? QUIRE_LEVEL_2M : QUIRE_LEVEL_4K;
}

/* --- mmu_lock in either mode, in shared mode in a read section --- */

/*
 * Facts of the slot and of the attributes alone; the backing's own limit (the host's level, or
 * guest_memfd's order) comes on top. A block may be huge when
 *   - it lies inside the slot, and slot and backing are aligned to each other at that level;
 *   - all its gfns have the same attributes (I-07);
 *   - no gfn of it is write-tracked;
 *   - the slot does not log dirty pages (4K then).
 * Computed on demand, so nothing goes stale (I-08). At most @max: ask the backing first,
 * which knows more often that there is nothing to look for.
 */
enum quire_level gfn_level_max(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn,
			       enum quire_level max) REQUIRES_SHARED(&vm->mmu_lock);

#endif
