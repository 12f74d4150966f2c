/* Blocks of 512 pages of a guest_memfd inode, and the tree in which they hang: states and frames.
 */
#ifndef QUIRE_GMEM_BLOCK_H
#define QUIRE_GMEM_BLOCK_H

#include "src/base/assert.h"
#include "src/gmem/pages.h"
#include "src/tree/radix.h"

#define GMEM_BLOCK_ORDER QUIRE_TABLE_BITS
#define GMEM_GIGANTIC_PAGES (UINT64_C(1) << GMEM_GIGANTIC_ORDER)
#define GMEM_GIGANTIC_BLOCKS (GMEM_GIGANTIC_PAGES / GMEM_BLOCK_PAGES)

/* States in one word, and a bit of each of them. */
#define GMEM_WORD_PAGES 8u
#define GMEM_EVERY_PAGE UINT64_C(0x0101010101010101)
#define GMEM_BLOCK_WORDS (GMEM_BLOCK_PAGES / GMEM_WORD_PAGES)

/* Frames of a block are base + offset, but for those that are SCATTERED. */
#define GMEM_BASE_VALID (UINT64_C(1) << 63)
#define GMEM_BASE_MASK (GMEM_BASE_VALID - 1)

/* A block that was made stays until its inode dies. In this file "off" is a page's offset in it. */
struct gmem_block {
	u64 states[GMEM_BLOCK_WORDS]; /* (a) a byte a page */
	u64 base;		      /* (a) frame of the block's first page, and GMEM_BASE_VALID */
	u64 *list;		      /* (a) frames of SCATTERED pages, or NULL */
	u32 order;    /* (a) GMEM_BLOCK_ORDER: the host gave the block as one unit */
	u32 gigantic; /* (a) of the first of 1 GiB: GMEM_GIGANTIC_ORDER, likewise of its blocks */
	u32 heard;    /* (a) whether all pages without a block were lost: asked since it is there */
};

/* The state of the page at @off, in the lowest byte, and of those behind it in its word. */
static inline u64 gmem_block_states(const struct gmem_block *block, u32 off)
{
	u64 word = atomic_load_acquire_u64(&block->states[off / GMEM_WORD_PAGES]);

	return word >> off % GMEM_WORD_PAGES * 8;
}

static inline u32 gmem_block_state(const struct gmem_block *block, u32 off)
{
	return gmem_block_states(block, off) & 0xff;
}

/* A full fence: see gmem_page_poison(). */
static inline void gmem_block_set(struct gmem_block *block, u32 off, u32 bits)
{
	CHECK(off < GMEM_BLOCK_PAGES && bits <= 0xff);
	atomic_fetch_or_u64(&block->states[off / GMEM_WORD_PAGES],
			    (u64)bits << off % GMEM_WORD_PAGES * 8);
}

static inline void gmem_block_clear(struct gmem_block *block, u32 off, u32 bits)
{
	CHECK(lock_rank_is_held(RANK_GMEM_PUNCH));
	CHECK(off < GMEM_BLOCK_PAGES && bits <= 0xff);
	atomic_fetch_and_u64(&block->states[off / GMEM_WORD_PAGES],
			     ~((u64)bits << off % GMEM_WORD_PAGES * 8));
}

/* The frame of a page that EXISTS, whose state is @state. */
static inline pfn_t gmem_block_pfn(const struct gmem_block *block, u32 off, u32 state)
{
	/* The thread that sets the bit knows the list, and there is only one. */
	const u64 *list = atomic_load_relaxed_ptr(&block->list);

	CHECK(list || !(state & GMEM_PAGE_SCATTERED));
	if (state & GMEM_PAGE_SCATTERED)
		return (pfn_t){atomic_load_relaxed_u64(&list[off])};
	return (pfn_t){(atomic_load_relaxed_u64(&block->base) + off) & GMEM_BASE_MASK};
}

static inline bool gmem_block_is_unit(const struct gmem_block *block)
{
	return atomic_load_relaxed_u32(&block->order) == GMEM_BLOCK_ORDER;
}

/* Is @bit set in all pages of the block? */
static inline bool gmem_block_all_have(const struct gmem_block *block, u32 bit)
{
	for (u32 i = 0; i < GMEM_BLOCK_WORDS; i++) {
		u64 word = atomic_load_acquire_u64(&block->states[i]);

		if ((word & bit * GMEM_EVERY_PAGE) != bit * GMEM_EVERY_PAGE)
			return false;
	}
	return true;
}

/* Has any page of the block one of @bits? What was done before the last of them went is seen. */
static inline bool gmem_block_any_has(const struct gmem_block *block, u32 bits)
{
	u64 seen = 0;

	for (u32 i = 0; i < GMEM_BLOCK_WORDS; i++)
		seen |= atomic_load_acquire_u64(&block->states[i]);
	return seen & bits * GMEM_EVERY_PAGE;
}

/* Levels of the tree above the blocks of @npages pages. */
unsigned int gmem_blocks_height(u64 npages);
/* Free all blocks and the tree; no reader is left. */
void gmem_blocks_free(struct gmem_pages *pages);

/* The block that a word of the tree leads to; NULL: there is no word, or no block. */
static always_inline struct gmem_block *gmem_block_at(const u64 *word)
{
	return word ? (struct gmem_block *)(uintptr_t)atomic_load_acquire_u64(word) : NULL;
}

/* The block, or NULL where there is none. No lock. */
struct gmem_block *gmem_block_find(const struct gmem_pages *pages, u64 block_no);
/* The block, made if it was not there; NULL without memory. No lock: two may make it at once. */
struct gmem_block *gmem_block_make(struct gmem_pages *pages, u64 block_no);
/* [@first, @first + @npages) is punched: forget pages there that were lost without a block. When
 * there were too many to list, only a punch of the whole file forgets the rest. */
void gmem_lost_forget(struct gmem_pages *pages, u64 first, u64 npages);

/* Note that the page exists at @pfn; -ENOMEM. Under the page lock, or punch_lock exclusive. */
must_check int gmem_block_add_page(const struct gmem_pages *pages, struct gmem_block *block,
				   u32 off, pfn_t pfn);
/* The host gave the whole block as one unit, whose first page is at @pfn. Likewise. */
must_check int gmem_block_add_unit(const struct gmem_pages *pages, struct gmem_block *block,
				   pfn_t pfn);
/* The block is one unit, unless a page of it is lost. Likewise. */
void gmem_block_join(struct gmem_block *block);
/*
 * The block around page @index has just become one unit: so do the 512 of its 1 GiB together, where
 * all are units and in one aligned row of frames.
 */
void gmem_gigantic_join(const struct gmem_pages *pages, u64 index);
/* Something happens to a part of the block: neither it nor its 1 GiB is one unit any more. */
void gmem_block_break(const struct gmem_pages *pages, struct gmem_block *block, u64 block_no);

#endif
