/* Pages of a guest_memfd in the hands of vCPUs: they stay shared. */
#ifndef QUIRE_GMEM_PIN_H
#define QUIRE_GMEM_PIN_H

#include <quire/place.h>

#include "src/gmem/gmem.h"

/*
 * A pin is in a list of its inode from gmem_pin_take() to gmem_unpin(), and holds a reference on
 * the file. It comes in two steps: in a read section the slot stays, and taking it sleeps.
 */

/* --- slots_lock, or a read section --- */

/* What @slot shows at @gfn; nothing, where its file was released or owns no attributes. */
void gmem_pin_choose(struct quire_map_pin *pin, const struct quire_vm *vm,
		     const struct memslot *slot, gfn_t gfn);

/* --- no lock, no read section --- */

/* -EFAULT: the page is private, and the pin is none. Takes the inode's invalidate lock. */
must_check int gmem_pin_take(struct quire_map_pin *pin);
void gmem_unpin(struct quire_map_pin *pin);

/* --- the inode's invalidate lock, exclusive --- */

/* The first pinned page of [first, first + npages), or the end. */
must_check u64 gmem_pin_first(struct gmem_inode *inode, u64 first, u64 npages);

#endif
