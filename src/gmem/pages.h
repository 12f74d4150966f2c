/* Pages of one guest_memfd inode: a byte of state each, and where they are. */
#ifndef QUIRE_GMEM_PAGES_H
#define QUIRE_GMEM_PAGES_H

#include <quire/host.h>

#include "src/base/lock.h"

/*
 * Blocks of 512 pages hang in a radix tree, both made when first needed and kept until the inode
 * dies, so that lookups need no lock. A page costs one byte as long as the host's frames of a
 * block are consecutive, and 8 more in a block where they are not.
 *
 *              store_get            store_zero             make_private
 *   (absent) -----------> EXISTS -------------> UP_TO_DATE ------------> PREPARED
 *       ^                                          ^   make_shared      |   |
 *       |                                          `--------------------'   |
 *       `-------------- punch: from any state, POISONED included -----------'
 *
 * A page goes right under its page lock (one thread does each step once) and under punch_lock
 * shared, and so it becomes shared for a fault; for a conversion it does under punch_lock
 * exclusive. It goes left, together with the store's memory, under punch_lock exclusive. So nothing
 * is zeroed or prepared that a punch is taking away. (I-13, I-14, I-17) A change that takes the
 * right to a private page away does that first, and undoes what was done by it under punch_lock
 * exclusive.
 */
enum gmem_page_state {
	GMEM_PAGE_EXISTS = 1u << 0,
	GMEM_PAGE_UP_TO_DATE = 1u << 1,
	GMEM_PAGE_PREPARED = 1u << 2,
	GMEM_PAGE_POISONED = 1u << 3,
	GMEM_PAGE_SCATTERED = 1u << 4, /* its frame is in the block's list */
};

#define GMEM_BLOCK_PAGES 512u
#define GMEM_GIGANTIC_ORDER 18u /* 512 blocks, which are one unit if the host gave them as one */
#define GMEM_PAGE_LOCKS 32u
#define GMEM_LOST_PAGES 32u

struct gmem_block;

struct gmem_page_lock {
	cache_aligned struct mutex mutex;
};

struct gmem_pages {
	const struct quire_host_ops *host; /* (c) */
	void *host_ctx;			   /* (c) */
	void *store;			   /* (c) */
	u64 npages;			   /* (c) */
	unsigned int max_order;		   /* (c) 0, 9 or 18: what store_get() is asked for */
	unsigned int huge_order;	   /* (c) of the pool's pages, 9 or 18; 0: it has none */
	unsigned int height;		   /* (c) levels of the radix tree above blocks */
	struct rwlock punch_lock;
	u64 root; /* (a) of the radix tree */
	/*
	 * (a) Pages that were lost when there was no memory for their block: index + 1, 0 for a
	 * free word. The block is told when it is made. Too many: @all_lost, every page of it is
	 * lost.
	 */
	u64 lost[GMEM_LOST_PAGES];
	u32 any_lost, all_lost;
	struct gmem_page_lock locks[GMEM_PAGE_LOCKS];
};

/* Where a page is. */
struct gmem_page {
	pfn_t pfn;
	unsigned int order; /* of the naturally aligned unit that the host gave */
	u32 state;	    /* enum gmem_page_state */
};

/* @pages is zeroed; the store is the caller's, and outlives it. */
void gmem_pages_init(struct gmem_pages *pages, const struct quire_host_ops *host, void *host_ctx,
		     u64 npages);
/* Free the tree; the pages have been punched. */
void gmem_pages_destroy(struct gmem_pages *pages);

/* State and place of page @index, in a few loads; state 0 when absent. No lock. */
void gmem_page_read(const struct gmem_pages *pages, u64 index, struct gmem_page *page);

/* The page, existing. -ENOMEM, -EHWPOISON or the host's error. Sleeps; takes the page lock. */
must_check int gmem_page_create(struct gmem_pages *pages, u64 index, struct gmem_page *page);

/* How pages are made private, or shared again. */
struct gmem_prepare {
	/* NULL: the pages are to be shared. Under the page lock: 2^@order pages from the aligned
	 * @index, at @pfn. */
	int (*make_private)(void *ctx, u64 index, pfn_t pfn, unsigned int order);
	/* Is a PREPARED page still private? NULL: always. */
	int (*is_private)(void *ctx, u64 index, pfn_t pfn, unsigned int order);
	/* A PREPARED page is to be shared; without make_private alone. Under the page lock. */
	int (*make_shared)(void *ctx, u64 index, pfn_t pfn);
	void *ctx;
	unsigned int order; /* 0, or 9: the unit around the page, where it is one */
};

/*
 * The page, existing, zeroed if it was never used, and, with @prepare (may be NULL), made private
 * or shared: each step once. -ENOMEM, -EHWPOISON, or the host's or @prepare's error. Sleeps.
 */
must_check int gmem_page_use(struct gmem_pages *pages, u64 index,
			     const struct gmem_prepare *prepare, struct gmem_page *page);

/* How pages are filled, in place of zeroing them. */
struct gmem_filler {
	/*
	 * Under the page lock: fill 2^@order pages from the aligned @index on, at @pfn. How many of
	 * them are filled, from the first on; or -errno: none.
	 */
	s64 (*fill)(void *ctx, u64 index, pfn_t pfn, unsigned int order);
	void *ctx;
	unsigned int max_order; /* 0, or 9: the unit that begins at the page, where it is one */
};

/*
 * The page and its unit, existing, made private alone with @prepare (may be NULL; its
 * make_private() refuses what is private already), filled and then up to date. How many pages that
 * are. Errors as gmem_page_use(), or the filler's. Pages that were not filled are as before.
 */
must_check s64 gmem_page_fill(struct gmem_pages *pages, u64 index,
			      const struct gmem_prepare *prepare, const struct gmem_filler *filler);

/* Has every page of the unit of 2^@order around page @index got @state? Nonzero if so. No lock. */
int gmem_unit_has(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state);

/* Has any page of the unit got one of the bits of @state? */
int gmem_unit_any(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state);

/* Told of runs of frames. */
struct gmem_frames {
	void (*tell)(void *ctx, pfn_t pfn, u64 npages);
	void *ctx;
};

/*
 * Take [first, first + npages) out of the state and the store. @reclaim is told of those that were
 * PREPARED; it may be NULL. Sleeps.
 */
void gmem_pages_punch(struct gmem_pages *pages, u64 first, u64 npages,
		      const struct gmem_frames *reclaim);

/* Tell of the pages in [first, first + npages) that exist. No lock. */
void gmem_pages_tell(const struct gmem_pages *pages, u64 first, u64 npages,
		     const struct gmem_frames *frames);

/* The same when every step in progress has ended, and before the next begins. Sleeps. */
void gmem_pages_tell_settled(struct gmem_pages *pages, u64 first, u64 npages,
			     const struct gmem_frames *frames);

/* The PREPARED pages of the range are so no more: tell of them. Waits for steps in progress. */
void gmem_pages_make_shared(struct gmem_pages *pages, u64 first, u64 npages,
			    const struct gmem_frames *frames);

/*
 * What the pages hold becomes zeros, also where they do not exist here yet. -ENOMEM, -EHWPOISON:
 * some may be zeros already. Sleeps.
 */
must_check int gmem_pages_clear(struct gmem_pages *pages, u64 first, u64 npages);

/*
 * The huge page that begins at @first becomes small pages, or @whole again: its frames are asked
 * for anew. @frames, which may be NULL, hears of those that were PREPARED, and they are so no more.
 * The host's error: as before, but for that. No guest has them mapped. Sleeps.
 */
must_check int gmem_pages_reshape(struct gmem_pages *pages, u64 first, int whole,
				  const struct gmem_frames *frames);

/* Nonzero, with *@index, if there is a page at frame @pfn. No lock. */
int gmem_pages_find(const struct gmem_pages *pages, pfn_t pfn, u64 *index);

/* Mark page @index POISONED until it is cleared, also without memory. */
void gmem_page_poison(struct gmem_pages *pages, u64 index);

#endif
