/* A picture of a VM's memory: what its slots hold, how it is mapped, and what the tables cost. */
#ifndef QUIRE_VIEW_H
#define QUIRE_VIEW_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;

/* Pages of 4 KiB of one piece of a slot. A field with levels is indexed by enum quire_level. */
struct quire_view_counts {
	uint64_t private_pages;
	uint64_t logged;			     /* with a bit in the slot's dirty bitmap */
	uint64_t mapped[4];			     /* by a leaf of that level */
	uint64_t writable, executable, young, dirty; /* of these: what their leaves say */
	/* By a leaf of a shadow page: for nested guests, or where shadow pages serve the guest
	 * itself. A page counts once for each leaf. */
	uint64_t shadow[4];
};

/* A part of a slot. */
struct quire_view_piece {
	uint32_t as_id, slot_id;
	uint32_t flags; /* enum quire_slot_flags */
	gfn_t gfn;
	uint64_t npages;
	hva_t hva; /* of the first page */
	struct quire_view_counts counts;
};

/*
 * Which gfns of one address space, in pieces of how many pages. A piece begins at a multiple of
 * @piece_pages or where its slot begins, and ends with its slot at the latest.
 */
struct quire_view_request {
	uint32_t as_id;
	gfn_t start, end;
	uint64_t piece_pages;
};

/* 0: go on. Else there are no more, and the caller gets this answer. */
typedef int (*quire_view_fn)(void *ctx, const struct quire_view_piece *piece);

/*
 * Show each piece to @visit, in rising order. 0, or what @visit answered; -EINVAL: no such address
 * space, no pages in a piece, an end before the start; -EIO: the VM is dead. Takes no lock: the
 * library looks in read sections of at most 128 MiB each, and between two of them anything may
 * change, so a piece whose slot changes meanwhile may show both. Without changes it is exact.
 * Guests run on all the while. Not inside a read section; @visit is called with nothing held, and
 * may call the library.
 */
QUIRE_MUST_CHECK QUIRE_API int quire_vm_view(struct quire_vm *vm,
					     const struct quire_view_request *request,
					     quire_view_fn visit, void *ctx);

/* The same of whole slots, without their counts: how large they are says how to cut them. */
QUIRE_MUST_CHECK QUIRE_API int quire_vm_view_slots(struct quire_vm *vm, uint32_t as_id,
						   quire_view_fn visit, void *ctx);

/* What the tables of all address spaces cost. */
struct quire_view_tables {
	uint64_t tdp[5];       /* by the level of their entries; a root counts where it stands */
	uint64_t shadow_pages; /* each with its own table */
	uint64_t used;	       /* table pages in use, for whatever: also lists of what maps a gfn */
	uint64_t taken_bytes;  /* from the host, for all of these */
};

/*
 * The same way as quire_vm_view(), but for one lock, of the memory for tables, which is held for a
 * few loads. -EIO: the VM is dead.
 */
QUIRE_MUST_CHECK QUIRE_API int quire_vm_view_tables(struct quire_vm *vm,
						    struct quire_view_tables *tables);

#ifdef __cplusplus
}
#endif

#endif
