/* guest_memfd: inodes that own guest pages, files that show them to a VM, bindings to slots. */
#ifndef QUIRE_GMEM_GMEM_H
#define QUIRE_GMEM_GMEM_H

#include <quire/gmem.h>

#include "src/base/assert.h"
#include "src/base/lock.h"
#include "src/gmem/pages.h"
#include "src/tree/range_map.h"
#include "src/vm/memslot.h"

/*
 * The inode is the storage: pages live until they are punched or the inode dies, with its last
 * file. A file is one VM's view of it: it pins the VM, and its bindings say which slot shows which
 * index. A second file (quire_gmem_link()) is the same of another VM. A slot
 * points back at the file without counting (slot.gmem.file), the file's bindings point at slots
 * without counting. All three writers of these pointers (bind, unbind, release) hold slots_lock
 * and the inode's invalidate lock exclusive, so both sides always agree outside:
 *
 * I-10 the file binds index i to slot s if and only if s.gmem.file is the file and i is in
 *      [s.pgoff, s.pgoff + s.npages). I-11 no index is bound twice in a file. I-16 after the
 *      release slot.gmem.file is NULL in all its slots.
 *
 * Lock order: slots_lock, invalidate_lock, page lock (inside pages.c), mmu_lock. Host
 * storage calls are made under the page lock or the invalidate lock.
 */
struct quire_vm;
struct quire_gmem;
struct quire_map_pin; /* pin.h */

/* Hardware that must be told about private pages; every function may be NULL. */
struct gmem_arch_ops {
	/* @pfn is about to be mapped private at @gfn. May sleep and fail; -errno to the fault. */
	int (*make_private)(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order);
	/*
	 * The same for pages that are filled before the guest runs: -EEXIST where the VM owns one
	 * of them already. NULL: make_private().
	 */
	int (*claim)(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order);
	/*
	 * Is what make_private() did still so? Without a lock; a wrong answer while it changes is
	 * noticed by the invalidation retry check. NULL: until reclaim().
	 */
	int (*is_private)(void *ctx, gfn_t gfn, pfn_t pfn, unsigned int order);
	/*
	 * The frames' private mappings go away, or their gfns no longer show them; some may never
	 * have been made private. Under mmu_lock exclusive or slots_lock; never sleeps.
	 */
	void (*invalidate)(void *ctx, pfn_t pfn, u64 npages);
	/*
	 * Frames that were made private are not any more, and stay in their file: their gfns were
	 * converted, or show them shared. Never fails, never sleeps. NULL: private until reclaim().
	 */
	void (*make_shared)(void *ctx, pfn_t pfn, u64 npages);
	/* Frames that were made private are freed. Under the invalidate lock; never fails. */
	void (*reclaim)(void *ctx, pfn_t pfn, u64 npages);
};

struct gmem_arch {
	const struct gmem_arch_ops *ops;
	void *ctx;
};

struct gmem_inode {
	u64 size_bytes;		      /* constant */
	u64 flags;		      /* constant, QUIRE_GMEM_* */
	const struct gmem_arch *arch; /* constant; NULL: none; see gmem_arch() */
	bool owns_attributes;	      /* constant: pages are what @attributes say */

	/*
	 * Exclusive: bind, unbind, link, populate, punch from invalidation begin to end, release.
	 * Shared: allocate, write, poison.
	 */
	struct rwlock invalidate_lock;
	struct quire_gmem *files; /* list; changed under invalidate_lock exclusive */
	u32 refs;		  /* atomic: files, until their lookups have ended, too */
	u32 linked;		  /* atomic: 1 from the second file on, for ever */
	/* index -> QUIRE_ATTRIBUTE_*, where they are the inode's: changed under invalidate_lock
	 * exclusive, read in read sections */
	struct range_map attributes;
	/* Pages in vCPUs' hands: added under invalidate_lock shared, too. */
	struct mutex pins_lock;
	struct quire_map_pin *pins; /* under pins_lock */
	struct gmem_pages pages;
};

struct quire_gmem {
	struct quire_vm *vm;	  /* counted */
	struct gmem_inode *inode; /* counted */
	struct quire_gmem *next;  /* in inode->files */
	u32 active;		  /* atomic: references, and GMEM_RELEASED */
	struct ptree bindings;	  /* index -> struct memslot; root is read in read sections */
	struct ptree dying;	  /* what they were, from the release on; not read */
};

/*
 * What the frames of the inode are told to. Pages of several VMs are told to none: a frame has one
 * owner in the reverse map. The arch itself goes with the VM of the first file. Without an order:
 * what must not miss the second file asks under punch_lock.
 */
static inline const struct gmem_arch *gmem_arch(const struct gmem_inode *inode)
{
	return atomic_load_relaxed_u32(&inode->linked) ? NULL : inode->arch;
}

/* Contracts, see vm/locks.h. */
static inline void gmem_assert_invalidate(const struct gmem_inode *inode)
    ASSERTS_HELD_SHARED(&inode->invalidate_lock)
{
	CHECK(lock_is_held(&inode->invalidate_lock, LOCK_SHARED));
}

static inline void gmem_assert_exclusive(const struct gmem_inode *inode)
    ASSERTS_HELD(&inode->invalidate_lock)
{
	CHECK(lock_is_held(&inode->invalidate_lock, LOCK_EXCLUSIVE));
}

/* In quire_gmem.active: no new references. */
#define GMEM_RELEASED (1u << 31)

/* Without an order: a release takes away what a lookup before it finds. */
static inline bool gmem_file_is_released(const struct quire_gmem *file)
{
	return (atomic_load_relaxed_u32(&file->active) & GMEM_RELEASED) != 0;
}

/* A reference that keeps the file and its pages: nonzero, or 0 from the release on. Any lock. */
must_check int gmem_file_get(struct quire_gmem *file);
/* The last one, after the release, frees the file, and the last file the pages. No lock held. */
void gmem_file_put(struct quire_gmem *file);

static inline bool gmem_init_shared(const struct gmem_inode *inode)
{
	return (inode->flags & QUIRE_GMEM_INIT_SHARED) != 0;
}

/*
 * Nonzero for a file of huge pages that owns the attributes where the one around @index is not
 * private as a whole: its pages are small then, for guests and client. In a read section, or with
 * the invalidate lock.
 */
int gmem_is_split(const struct gmem_inode *inode, u64 index);

enum gmem_access { GMEM_SHARED, GMEM_PRIVATE };

/* A lookup on its way; private but for the results. */
struct gmem_lookup {
	pfn_t pfn;	    /* result */
	unsigned int order; /* result: aligned block of 2^order pages around it, in gfns too */
	u32 found;
	enum gmem_access access;
	struct quire_gmem *file; /* counted, until finish; NULL when found at once */
	gfn_t gfn;
	u64 index;
	unsigned int max_order;
};

/*
 * First half, in a read section (the slot must stay) with no lock: -EFAULT: the slot has no live
 * file (G-020, G-021); -EIO: the binding is another slot's (G-022); -EHWPOISON. A page in use
 * already is found here by a few loads: then finish has nothing to do. On 0 finish must be called.
 */
must_check int gmem_lookup_begin(const struct memslot *slot, gfn_t gfn, enum gmem_access access,
				 struct gmem_lookup *lookup);
/*
 * Second half, outside any read section, no lock of rank above slots_lock; may sleep. Creates the
 * page, zeroes it before its first use, makes it private or shared: in this order. -ENOMEM,
 * -EHWPOISON, or what the host or make_private() said; the page stays in the inode then. -ESTALE:
 * the gfn lost the page meanwhile, start over. The result may be stale at once, too: it is trusted
 * only after the invalidation retry check. The last lookup after a release frees the file.
 */
must_check int gmem_lookup_finish(struct gmem_lookup *lookup);

/*
 * Make pages of the slot private from @gfn on and fill them, a page, or a unit of up to
 * 2^filler->max_order that begins there; not zeroed. How many pages that are. Under slots_lock,
 * which keeps the slot as it is; takes the invalidate lock exclusive. -EFAULT: the slot has no live
 * file; -EINVAL: the attributes say shared; -EEXIST: private already; -EHWPOISON, -ENOMEM, or what
 * the host, the arch or @filler said.
 */
must_check s64 gmem_fill_unit(const struct memslot *slot, gfn_t gfn,
			      const struct gmem_filler *filler);

/*
 * The attributes of [gfn, gfn + npages) in the slot have just become shared: what was private there
 * is not any more. Under slots_lock, between begin and end of the invalidation. Waits for lookups
 * that still saw the old attributes; later ones make nothing private. No live file: nothing.
 */
void gmem_make_shared(const struct memslot *slot, gfn_t gfn, u64 npages);
/* The same of pages of an inode that owns the attributes. The invalidate lock is exclusive. */
void gmem_make_range_shared(struct gmem_inode *inode, u64 first, u64 npages);

/* One change of bindings: under slots_lock, from prepare or bind_commit to finish or undo. */
struct gmem_binding_change {
	struct quire_gmem *file; /* NULL: nothing to do */
	struct memslot *slot;
	struct ptree before;
	struct ptree after;
	struct ptree_edit edit;
	u32 bind;      /* or unbind */
	u32 published; /* the file shows @after */
};

/*
 * G-065, first half: can @slot, not published yet, show @gmem from @offset_bytes (page aligned)?
 * -EINVAL: another VM's file, or past its end. Sets the slot's file and pgoff, and
 * MEMSLOT_GMEM_ONLY with a file that has QUIRE_GMEM_MMAP or owns the attributes. The caller keeps
 * @gmem from its release. Nothing to undo.
 */
must_check int gmem_bind_prepare(struct memslot *slot, struct quire_vm *vm, struct quire_gmem *gmem,
				 u64 offset_bytes);
/*
 * Second half: -EEXIST: part of the range is bound; -ENOMEM; nothing changed then. Takes the
 * invalidate lock. On 0 call finish or undo.
 */
must_check int gmem_bind_commit(struct memslot *slot, struct gmem_binding_change *change);

/* Build the bindings without @slot, which may have no file (any more). -ENOMEM: nothing changed. */
must_check int gmem_unbind_prepare(struct memslot *slot, struct gmem_binding_change *change);
/*
 * Take the binding away and clear slot.gmem.file. Takes the invalidate lock. Works while the
 * file's release waits for slots_lock: the file cannot go before (G-061).
 */
void gmem_unbind_commit(struct gmem_binding_change *change);

/* Back to the bindings before the change, committed or only prepared. Sleeps for readers. */
void gmem_binding_undo(struct gmem_binding_change *change);
/* Wait for readers of the old bindings and free them. After a commit. */
void gmem_binding_finish(struct gmem_binding_change *change);

/* Part of a slot that shows pages of the inode. */
struct gmem_binding {
	struct quire_gmem *file;
	const struct memslot *slot;
	gfn_t gfn;
	u64 npages;
};

struct gmem_binding_iter {
	struct quire_gmem *file;
	u64 first;
	u64 end;
	struct ptree_cursor cursor;
};

/* Bindings of @npages from index @first, over all files: nonzero while there is one. */
int gmem_binding_first(const struct gmem_inode *inode, u64 first, u64 npages,
		       struct gmem_binding_iter *iter, struct gmem_binding *binding);
int gmem_binding_next(struct gmem_binding_iter *iter, struct gmem_binding *binding);

#define gmem_for_binding(inode, first, npages, iter, binding)                                      \
	for (int more_ = gmem_binding_first((inode), (first), (npages), (iter), (binding)); more_; \
	     more_ = gmem_binding_next((iter), (binding)))

/*
 * Take pages out of the inode: state, frames made private, the store's memory. The invalidate lock
 * is held exclusive and all guest mappings are gone (between invalidation begin and end).
 * @npages may reach past the end. Never fails.
 */
void gmem_punch_pages(struct gmem_inode *inode, u64 first, u64 npages);

/*
 * Tell the arch that pages of the inode lose their private mappings. For changers of bindings and
 * mappings; takes no lock of guest_memfd.
 */
void gmem_invalidate_private(const struct gmem_inode *inode, u64 first, u64 npages);
/*
 * The same once the bindings are gone, and for good: waits for lookups that still saw them, and
 * none that comes later makes these pages private at a gfn they have lost.
 */
void gmem_unbind_private(struct gmem_inode *inode, u64 first, u64 npages);

/* Mark page @index as lost; it need not exist. The invalidate lock is held, shared at least. */
void gmem_poison_page(struct gmem_inode *inode, u64 index);

/*
 * Release of a file, in three steps. First, with slots_lock and the invalidate lock exclusive: no
 * lookup begins any more and the slots forget the file; the bindings stay for gmem_for_binding(),
 * so that the caller can zap.
 */
void gmem_release_begin(struct quire_gmem *gmem);
/* Second, with the same locks: the file leaves its inode. */
void gmem_release_end(struct quire_gmem *gmem);
/*
 * Third, no lock held. Waits for readers, not for lookups: the last of these frees file, pages and
 * VM reference, and the store, whose memory must be there until then (store_destroy()).
 */
void gmem_release_free(struct quire_gmem *gmem);

#endif
