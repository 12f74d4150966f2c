/* A picture of a VM's memory: what its slots hold, how it is mapped, and what the tables cost. */
#ifndef QUIRE_VIEW_H
#define QUIRE_VIEW_H

#include <quire/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct quire_vm;

/*
 * Pages of 4 KiB of one piece of a slot. Index of an array: enum quire_level; element 0 is unused.
 */
struct quire_view_counts {
	uint64_t private_pages; /* by the VM's attributes, or by those of the slot's guest_memfd */
	uint64_t logged;	/* with a bit in the slot's dirty bitmap */
	uint64_t mapped[4];	/* by a leaf of the TDP MMU's tables, of that level */
	/* Of the pages so mapped, by their leaves. Without D bits (QUIRE_FORMAT_EPT_NO_AD) what is
	 * writable counts as dirty. */
	uint64_t writable, executable, young, dirty;
	/* By a leaf of a shadow page: for nested guests, or where shadow pages serve the guest
	 * itself. A page counts once for each leaf. */
	uint64_t shadow[4];
};

/* A part of a slot, all of which has the same flags. */
struct quire_view_piece {
	uint32_t as_id, slot_id;
	uint32_t flags; /* enum quire_slot_flags */
	gfn_t gfn;
	uint64_t npages;
	hva_t hva; /* of the first page; the slot's own, also where a guest_memfd has the pages */
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

/* Called for each piece; *@piece is valid during the call alone. 0: go on; else: no more pieces,
 * and quire_vm_view() returns this answer. */
typedef int (*quire_view_fn)(void *ctx, const struct quire_view_piece *piece);

/*
 * Show each piece to @visit, in rising order. 0, or what @visit answered; -EINVAL: no such address
 * space, no pages in a piece, an end before the start; -EIO: the VM is dead. Any thread with a
 * reference to the VM, out of guest mode, no lock held; takes no lock of the VM, and owes no flush.
 * The library looks in read sections of at most 128 MiB each. Guests run on all the while, and
 * between two sections anything may change: a piece whose slot changes meanwhile may show both.
 * Without changes the picture is exact. @visit is called with nothing held, and may call the
 * library. KVM has no such call.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_view(struct quire_vm *vm,
					     const struct quire_view_request *request,
					     quire_view_fn visit, void *ctx);

/*
 * The same, with each slot of the address space as one piece whose counts are 0: a caller that
 * wants so many pieces in all chooses their size by this. Errors and locks as quire_vm_view().
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_view_slots(struct quire_vm *vm, uint32_t as_id,
						   quire_view_fn visit, void *ctx);

/* What the tables of all address spaces cost. */
struct quire_view_tables {
	/* Pages of the TDP MMU's tables by the level of their entries (enum quire_level), roots
	 * included; element 0 is unused. */
	uint64_t tdp[5];
	uint64_t shadow_pages; /* each has a table of one page */
	uint64_t used;	       /* pages in use: all tables, and the lists of what maps a gfn */
	uint64_t taken_bytes;  /* chunks that the host gave for all of these, in use or not */
};

/*
 * 0, or -EIO: the VM is dead; *@tables is filled on success alone. Threads and locks as
 * quire_vm_view(), but for the lock of the memory for tables, which is held for a few loads.
 */
QUIRE_API QUIRE_MUST_CHECK int quire_vm_view_tables(struct quire_vm *vm,
						    struct quire_view_tables *tables);

#ifdef __cplusplus
}
#endif

#endif
