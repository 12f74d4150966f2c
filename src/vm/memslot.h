/* Memslots: which guest frames a VM has, and where the client keeps them. */
#ifndef QUIRE_VM_MEMSLOT_H
#define QUIRE_VM_MEMSLOT_H

#include <quire/vm.h>

#include "src/base/atomic.h"
#include "src/base/mutant.h"
#include "src/tree/ptree.h"

/*
 * Ownership: struct memslots (in the VM) owns the sets and id tables; a slot belongs to the caller
 * that allocated it until it is committed, then to the set, and after it was replaced to the caller
 * of memslot_update_commit() again, which frees it and what hangs on it. A published slot is
 * immutable but for gmem.file. Readers need a read section (base/reclaim.h) and take no lock;
 * writers hold slots_lock.
 *
 * Each address space has two sets, one published. An update builds trees that share structure
 * with the current ones, writes them to the other set, and publishes that by one pointer.
 *
 *   CREATE, FLAGS_ONLY   prepare -------------------------> commit
 *   DELETE, MOVE         prepare -> begin (placeholder) --> commit
 *                           |          `------------------> abort: the old slot is back
 *                           `-----------------------------> abort: nothing has happened
 *
 * I-01 slots of a set are disjoint in gfn, ids are unique. I-02 a slot does not wrap, has 1 to
 * 2^31-1 pages and an aligned hva. I-03 an INVALID slot is published only between begin and
 * commit or abort. I-04 generations only grow; bit 63 is set only while an update runs.
 * I-05 a GMEM slot has no other user flag. I-06 nr_dirty_logging counts LOG_DIRTY slots.
 */
struct quire_vm;
struct quire_gmem;
struct dirty_bitmap;

/* Flags of our own, beside enum quire_slot_flags. */
enum memslot_flags {
	MEMSLOT_INVALID = 1u << 16,   /* a placeholder: the slot is going away */
	MEMSLOT_GMEM_ONLY = 1u << 17, /* all guest faults come from guest_memfd */
};

struct memslot {
	gfn_t base_gfn;
	u64 npages;
	hva_t hva;
	u32 flags;
	u16 id;
	u16 as_id;
	struct {
		/*
		 * Not counted. Cleared by unbind and release under slots_lock and the inode's
		 * invalidate lock. It never becomes another file, so the one that finds the slot
		 * knows the file: a relaxed load will do, but in check_binding().
		 */
		struct quire_gmem *file;
		u64 pgoff; /* index of base_gfn in the file */
	} gmem;
	struct dirty_bitmap
	    *dirty; /* counted; the next version of the slot takes it over; or NULL */
};

/* Bit 63 of a generation: an update is in progress, cache nothing. */
#define MEMSLOTS_UPDATING (UINT64_C(1) << 63)

struct memslot_set {
	u64 generation;
	struct ptree by_gfn; /* key base_gfn */
	struct ptree by_hva; /* key: hva page and id, since any number of slots may share an hva */
};

#define MEMSLOT_ID_BLOCK 512u
#define MEMSLOT_ID_BLOCKS 64u

/* (s) written under slots_lock; (r) read in a read section. */
struct memslots {
	struct memslot_set *active[QUIRE_AS_MAX];	       /* (s)(r) */
	struct memslot_set sets[QUIRE_AS_MAX][2];	       /* (s) the inactive */
	struct memslot **ids[QUIRE_AS_MAX][MEMSLOT_ID_BLOCKS]; /* (s) also to read */
	u64 total_pages;				       /* (s) of all slots, relaxed reads */
	u32 count[QUIRE_AS_MAX];			       /* (s) */
	u32 nr_dirty_logging;				       /* (s), relaxed reads */
	u32 nr_as;					       /* constant */
};

/*
 * What one reader found last, and copies of what stands in it; zero it to start. Belongs to one
 * thread at a time. A generation belongs to one set of one address space: while it is that of the
 * published set, the slot is published, too.
 */
struct memslot_hint {
	u64 generation;
	const struct memslot *slot; /* alive within the read section that found the generation */
	gfn_t base_gfn;
	u64 npages; /* 0: no slot */
	hva_t hva;
	u32 flags;
};

static inline const struct memslot_set *memslots_published(const struct memslots *slots, u32 as)
{
	return atomic_load_acquire_ptr(&slots->active[as]);
}

/* Generation of what is published now. A read section only for what is looked up with it. */
static inline u64 memslots_generation_of(const struct memslots *slots, u32 as)
{
	return atomic_load_relaxed_u64(&memslots_published(slots, as)->generation);
}

/*
 * Does @hint know the slot of @gfn, in what is published now? Looks at no slot and at no tree, so
 * for the copies no read section is needed.
 */
static inline bool memslot_hint_holds(const struct memslots *slots, u32 as,
				      const struct memslot_hint *hint, gfn_t gfn)
{
	return !MUTANT(hint_off) && hint->generation == memslots_generation_of(slots, as) &&
	       gfn.v - hint->base_gfn.v < hint->npages;
}

/* Where the client has @gfn, of a hint that holds. */
static inline hva_t memslot_hint_hva(const struct memslot_hint *hint, gfn_t gfn)
{
	return (hva_t){hint->hva.v + ((gfn.v - hint->base_gfn.v) << QUIRE_PAGE_SHIFT)};
}

/* @nr_as address spaces, no slots. Cannot fail. */
void memslots_init(struct quire_vm *vm, u32 nr_as);
/* Free the sets and tables; @free_slot frees each slot with what hangs on it. No readers. */
void memslots_destroy(struct quire_vm *vm, void (*free_slot)(struct quire_vm *, struct memslot *));

static inline gfn_t memslot_end(const struct memslot *slot)
{
	return (gfn_t){slot->base_gfn.v + slot->npages};
}

static inline hva_t memslot_hva_end(const struct memslot *slot)
{
	return (hva_t){slot->hva.v + (slot->npages << QUIRE_PAGE_SHIFT)};
}

/* Client address of @gfn, which is in the slot. */
static inline hva_t memslot_hva(const struct memslot *slot, gfn_t gfn)
{
	return (hva_t){slot->hva.v + ((gfn.v - slot->base_gfn.v) << QUIRE_PAGE_SHIFT)};
}

/* Index of @gfn in the slot's guest_memfd (G-005). */
static inline u64 memslot_gmem_index(const struct memslot *slot, gfn_t gfn)
{
	return gfn.v - slot->base_gfn.v + slot->gmem.pgoff;
}

static inline bool memslot_has(const struct memslot *slot, gfn_t gfn)
{
	return gfn.v - slot->base_gfn.v < slot->npages;
}

/* --- any lock --- */

/* U-037: -EINVAL when the region's last frame is above @max. */
must_check int memslot_check_max_gfn(const struct quire_region *region, gfn_t max);

/* A slot as @region describes it, without dirty and gmem; NULL without memory. */
struct memslot *memslot_alloc(struct quire_vm *vm, const struct quire_region *region);
/* The descriptor only. */
void memslot_free(struct quire_vm *vm, struct memslot *slot);

/* Generation of the published set; the same section as the lookup it belongs to, and before it. */
u64 memslots_generation(const struct quire_vm *vm, u32 as);

/* --- slots_lock, or a read section --- */

/*
 * The slot that holds @gfn in address space @as, or NULL; it may be INVALID. The result lives as
 * long as the section or the hold of slots_lock. @hint may be NULL.
 */
const struct memslot *memslot_lookup(const struct quire_vm *vm, u32 as, gfn_t gfn,
				     struct memslot_hint *hint);

/*
 * Slots of @as that overlap a range; INVALID ones too. By gfn in gfn order, by hva in hva order.
 * NULL at the end.
 */
struct memslot_iter {
	struct ptree_cursor cursor;
};
const struct memslot *memslot_first_gfn(const struct quire_vm *vm, u32 as, gfn_t start, gfn_t end,
					struct memslot_iter *iter);
const struct memslot *memslot_first_hva(const struct quire_vm *vm, u32 as, hva_t start, hva_t end,
					struct memslot_iter *iter);

/* --- what was held for the first of them --- */

const struct memslot *memslot_next(struct memslot_iter *iter);

#define memslot_for_gfn(slot, vm, as, start, end, iter)                                      \
	for ((slot) = memslot_first_gfn((vm), (as), (start), (end), (iter)); (slot) != NULL; \
	     (slot) = memslot_next((iter)))
#define memslot_for_hva(slot, vm, as, start, end, iter)                                      \
	for ((slot) = memslot_first_hva((vm), (as), (start), (end), (iter)); (slot) != NULL; \
	     (slot) = memslot_next((iter)))

/* The gfns of the part of @slot that shows [start, end), which overlap; pages touched in part
 * count. */
static inline void memslot_gfns(const struct memslot *slot, hva_t start, hva_t end, gfn_t *first,
				gfn_t *last)
{
	u64 from = max_u64(start.v, slot->hva.v) - slot->hva.v;
	u64 to = min_u64(end.v, memslot_hva_end(slot).v) - slot->hva.v;

	first->v = slot->base_gfn.v + (from >> QUIRE_PAGE_SHIFT);
	last->v = slot->base_gfn.v + (round_up_u64(to, QUIRE_PAGE_SIZE) >> QUIRE_PAGE_SHIFT);
}

/* --- slots_lock --- */

/* The slot with @id, never a placeholder; NULL when unused. */
struct memslot *memslot_by_id(const struct quire_vm *vm, u32 as, u32 id);

enum memslot_change {
	MEMSLOT_NONE, /* the request changes nothing */
	MEMSLOT_CREATE,
	MEMSLOT_DELETE,
	MEMSLOT_MOVE,
	MEMSLOT_FLAGS_ONLY,
};

/* What a request turned out to be. */
struct memslot_decision {
	enum memslot_change change;
	struct memslot *old; /* NULL for CREATE */
};

/*
 * U-022 to U-034, in that order. -EINVAL; -EEXIST: another slot is there; -EIO:
 * the page count broke. Does not look at region->gmem nor gmem_error: those come after (U-036).
 */
must_check int memslot_check(const struct quire_vm *vm, const struct quire_region *region,
			     struct memslot_decision *decision);

/* One update of one address space. Fill in the first three, zero the rest. */
struct memslot_update {
	enum memslot_change change;
	struct memslot *old_slot; /* DELETE, MOVE, FLAGS_ONLY */
	struct memslot
	    *new_slot; /* CREATE, MOVE, FLAGS_ONLY; complete but for what is said there */
	/* Private. */
	struct memslot *placeholder;
	struct ptree by_gfn[3]; /* before, with the placeholder, after */
	struct ptree by_hva[3];
	struct ptree_edit edits[2]; /* to the placeholder, to the end */
	u32 begun;
};

/*
 * Build the trees. -ENOMEM: nothing has changed and nothing is left to clean up. slots_lock is
 * kept until commit or abort. The fields of new_slot may be changed until the commit, but for id,
 * as_id, base_gfn, npages and hva.
 */
must_check int memslot_update_prepare(struct quire_vm *vm, struct memslot_update *update);

/*
 * DELETE and MOVE: publish the placeholder, so that new faults on the old slot retry. When this
 * returns, no read section sees the old slot as valid. Waits for host invalidations in flight and
 * for a grace period: no read section, slots_lock only.
 */
void memslot_update_begin(struct quire_vm *vm, struct memslot_update *update);

/*
 * Publish the result; waits as begin does. On return no reader sees old_slot, which is the
 * caller's to free, and the counters (pages, dirty logging, ids) are those of the new set.
 */
void memslot_update_commit(struct quire_vm *vm, struct memslot_update *update);

/* Give up after prepare or begin: the old slot is as before; new_slot is the caller's to free. */
void memslot_update_abort(struct quire_vm *vm, struct memslot_update *update);

#endif
