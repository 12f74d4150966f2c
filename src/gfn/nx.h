/* Tables that stand where a huge leaf could, because the guest executes there. */
#ifndef QUIRE_GFN_NX_H
#define QUIRE_GFN_NX_H

#include "src/vm/locks.h"
#include "src/vm/vm.h"

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
