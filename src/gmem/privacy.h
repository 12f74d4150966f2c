/* Is a page private? The one place that answers. */
#ifndef QUIRE_GMEM_PRIVACY_H
#define QUIRE_GMEM_PRIVACY_H

#include "src/gmem/gmem.h"

/*
 * The fact has one owner in a VM, for ever: the VM (quire_vm_set_attributes(), a map of gfns), or,
 * with gmem_in_place_conversion, the inodes (quire_gmem_set_attributes(), a map of indexes each).
 * There a gfn is what its slot's file says of the index it shows; without a slot, or once the file
 * was released, it is shared. The answer may change at once: what comes of it is trusted after the
 * invalidation retry check only, or while the owner's lock is held.
 */

/* --- slots_lock, or a read section --- */

/* The attributes of @gfn, which @slot holds; NULL: no slot does. */
u64 privacy_get(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn);

/* Nonzero, with *@value, when all of [gfn, gfn + npages), in @slot, have the same attributes. */
int privacy_uniform(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn, u64 npages,
		    u64 *value);

/* The end of the run of pages that have the attributes *@value of @gfn, @end at most: all of it is
 * in
 * @slot. */
gfn_t privacy_run(const struct quire_vm *vm, const struct memslot *slot, gfn_t gfn, gfn_t end,
		  u64 *value);

/* The attributes of @gfn, by whichever slot of address space @as holds it now. */
u64 privacy_of_gfn(const struct quire_vm *vm, u32 as, gfn_t gfn);

#endif
