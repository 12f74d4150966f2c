/* The largest level at which a gfn may be mapped, and the tables that NX keeps small. */
#ifndef QUIRE_GFN_LEVEL_H
#define QUIRE_GFN_LEVEL_H

#include "src/base/mutant.h"
#include "src/vm/locks.h"
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

/*
 * Some processors stop when one page is executed through a small and a huge translation at the same
 * time. While the workaround is on no huge leaf is executable: reading keeps huge pages, executing
 * makes a table of 4K leaves. Such a table is marked before it is linked, so that no fault puts the
 * huge leaf back, and listed in order of age after it is linked. The list is under pages_lock;
 * a table leaves it when it is recovered, or swept.
 */

/* --- any lock below pages_lock --- */

/* Set up @table, not linked yet, for @gfn and address space @as_id; not marked. */
void nx_table_init(struct table *table, gfn_t gfn, u32 as_id);

/* A table is about to be freed, or is no obstacle any more. */
void nx_list_remove(struct quire_vm *vm, struct table *table);

/* --- mmu_lock in either mode --- */

/* Is the workaround on? */
static inline bool nx_is_on(const struct quire_vm *vm)
{
	mmu_assert_held(vm);
	return atomic_load_relaxed_u32(&vm->nx.on);
}

/* --- mmu_lock in either mode, in shared mode in a read section --- */

/* List the marked @table, which was just linked. */
void nx_list_add(struct quire_vm *vm, struct table *table) REQUIRES_SHARED(&vm->mmu_lock);

/* --- mmu_lock exclusive --- */

/*
 * The oldest listed table: what it covers, and the shadow page's own, which stays one while
 * mmu_lock is held exclusive. NULL: of the TDP MMU.
 */
struct nx_range {
	u32 as_id;
	gfn_t start, end;
	struct table *shadow;
};

/* Take it off the list: its mark goes too. Zero when there is none. */
must_check int nx_list_pop(struct quire_vm *vm, struct nx_range *range) REQUIRES(&vm->mmu_lock);

#endif
