/* The tree of blocks of a guest_memfd inode: what is where, and what the host gave as one unit. */
#include "src/gmem/block.h"

#include <errno.h>

_Static_assert(RADIX_WORDS == GMEM_GIGANTIC_BLOCKS, "the blocks of a lowest node are 1 GiB");

unsigned int gmem_blocks_height(u64 npages)
{
	return radix_height((npages + GMEM_BLOCK_PAGES - 1) / GMEM_BLOCK_PAGES);
}

static void free_block(void *ctx, u64 word)
{
	const struct radix_host *host = ctx;
	struct gmem_block *block = (struct gmem_block *)(uintptr_t)word;

	if (block->list)
		host->ops->free(host->ctx, block->list, GMEM_BLOCK_PAGES * sizeof(u64));
	host->ops->free(host->ctx, block, sizeof(*block));
}

void gmem_blocks_free(struct gmem_pages *pages)
{
	struct radix_host host = {pages->host, pages->host_ctx};
	const struct radix_memory memory = {radix_host_make, radix_host_free, &host};

	radix_free(&pages->root, pages->height, &memory, free_block);
}

struct gmem_block *gmem_block_find(const struct gmem_pages *pages, u64 block_no)
{
	return gmem_block_at(radix_find(&pages->root, pages->height, block_no));
}

/* The 512 words of the blocks of the 1 GiB around @block_no; NULL: there are none. */
static u64 *gigantic_find(const struct gmem_pages *pages, u64 block_no)
{
	return pages->height ? radix_find(&pages->root, pages->height,
					  round_down_u64(block_no, GMEM_GIGANTIC_BLOCKS))
			     : NULL;
}

/* What @link points at, made if it was not there; NULL without memory. */
static void *link_make(const struct gmem_pages *pages, void **link, size_t size_bytes)
{
	void *there = atomic_load_acquire_ptr(link);
	void *made;

	if (there)
		return there;
	CHECK(!lock_rank_is_held(RANK_MMU));
	made = pages->host->alloc(pages->host_ctx, size_bytes);
	if (!made || atomic_cmpxchg_ptr(link, &there, made))
		return made;
	CHECK(there && there != made);
	/* Another thread was first. */
	pages->host->free(pages->host_ctx, made, size_bytes);
	return there;
}

/* The block, which is there now, hears which of its pages were lost before it was. */
static void block_hear_lost(struct gmem_pages *pages, struct gmem_block *block, u64 block_no)
{
	CHECK(gmem_block_find(pages, block_no) == block);
	for (u32 i = 0; i < GMEM_LOST_PAGES; i++) {
		/* Partner: gmem_block_set() below, of a thread that heard of it just before. */
		u64 lost = atomic_load_acquire_u64(&pages->lost[i]);

		if (!lost || (lost - 1) / GMEM_BLOCK_PAGES != block_no)
			continue;
		CHECK(lost <= pages->npages);
		gmem_block_set(block, (u32)(lost - 1) % GMEM_BLOCK_PAGES, GMEM_PAGE_POISONED);
		gmem_block_break(pages, block, block_no);
		/* Behind the full fence of gmem_block_set(). */
		(void)atomic_cmpxchg_relaxed_u64(&pages->lost[i], &lost, 0);
	}
}

static void block_lose_all(const struct gmem_pages *pages, struct gmem_block *block, u64 block_no)
{
	for (u32 off = 0; off < GMEM_BLOCK_PAGES; off++)
		if (!(gmem_block_state(block, off) & GMEM_PAGE_EXISTS))
			gmem_block_set(block, off, GMEM_PAGE_POISONED);
	gmem_block_break(pages, block, block_no);
}

/* A page that was lost when it had no block, and there was no memory for one. */
static void note_lost(struct gmem_pages *pages, u64 index)
{
	bool noted = false;

	CHECK(index < pages->npages);
	for (u32 i = 0; i < GMEM_LOST_PAGES && !noted; i++) {
		u64 free = 0;

		noted = atomic_cmpxchg_relaxed_u64(&pages->lost[i], &free, index + 1) ||
			free == index + 1;
	}
	if (!noted)
		atomic_store_relaxed_u32(&pages->all_lost, 1);
	atomic_store_relaxed_u32(&pages->any_lost, 1);
	atomic_fence(); /* pairs with the link of a block that is made meanwhile */
}

void gmem_lost_forget(struct gmem_pages *pages, u64 first, u64 npages)
{
	CHECK(lock_is_held(&pages->punch_lock, LOCK_EXCLUSIVE));
	CHECK(first <= pages->npages && npages <= pages->npages - first);
	if (likely(!atomic_load_relaxed_u32(&pages->any_lost)))
		return;
	for (u32 i = 0; i < GMEM_LOST_PAGES; i++) {
		u64 lost = atomic_load_relaxed_u64(&pages->lost[i]);

		if (lost && lost - 1 >= first && lost - 1 - first < npages)
			(void)atomic_cmpxchg_relaxed_u64(&pages->lost[i], &lost, 0);
	}
	if (!first && npages >= pages->npages)
		atomic_store_relaxed_u32(&pages->all_lost, 0);
}

static struct gmem_block *block_link(struct gmem_pages *pages, u64 block_no)
{
	struct radix_host host = {pages->host, pages->host_ctx};
	const struct radix_memory memory = {radix_host_make, radix_host_free, &host};
	u64 *word = radix_make(&pages->root, pages->height, block_no, &memory);

	return word ? link_make(pages, (void **)word, sizeof(struct gmem_block)) : NULL;
}

struct gmem_block *gmem_block_make(struct gmem_pages *pages, u64 block_no)
{
	struct gmem_block *block = block_link(pages, block_no);

	if (!block)
		return NULL;
	if (unlikely(!atomic_load_acquire_u32(&block->heard))) {
		/* After the link, a full fence: pairs with the one in note_lost(). */
		if (unlikely(atomic_load_relaxed_u32(&pages->all_lost)))
			block_lose_all(pages, block, block_no);
		/* What was lost is set by full fences before it. */
		atomic_store_relaxed_u32(&block->heard, 1);
	}
	if (unlikely(atomic_load_relaxed_u32(&pages->any_lost)))
		block_hear_lost(pages, block, block_no);
	return block;
}

/* Did the host give all blocks of the 1 GiB as one unit? The first says so. */
static bool is_gigantic(const u64 *blocks)
{
	const struct gmem_block *first = gmem_block_at(blocks);

	return first && atomic_load_relaxed_u32(&first->gigantic) == GMEM_GIGANTIC_ORDER;
}

void gmem_page_read(const struct gmem_pages *pages, u64 index, struct gmem_page *page)
{
	const struct gmem_block *block = gmem_block_find(pages, index / GMEM_BLOCK_PAGES);
	u32 off = index % GMEM_BLOCK_PAGES;

	*page = (struct gmem_page){0};
	if (!block)
		return;
	page->state = gmem_block_state(block, off);
	page->pfn = gmem_block_pfn(block, off, page->state);
	page->order = gmem_block_is_unit(block) ? GMEM_BLOCK_ORDER : 0;
	if (page->order && is_gigantic(gigantic_find(pages, index / GMEM_BLOCK_PAGES)))
		page->order = GMEM_GIGANTIC_ORDER;
}

static bool all_blocks_have(const u64 *blocks, u32 bit)
{
	for (u32 i = 0; i < GMEM_GIGANTIC_BLOCKS; i++) {
		const struct gmem_block *block = gmem_block_at(&blocks[i]);

		if (!block || !gmem_block_all_have(block, bit))
			return false;
	}
	return true;
}

static bool any_block_has(const u64 *blocks, u32 bit)
{
	for (u32 i = 0; i < GMEM_GIGANTIC_BLOCKS; i++) {
		const struct gmem_block *block = gmem_block_at(&blocks[i]);

		if (block && gmem_block_any_has(block, bit))
			return true;
	}
	return false;
}

int gmem_unit_has(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state)
{
	const struct gmem_block *block;

	if (order > GMEM_BLOCK_ORDER) {
		const u64 *blocks = gigantic_find(pages, index / GMEM_BLOCK_PAGES);

		return is_gigantic(blocks) && all_blocks_have(blocks, state);
	}
	block = gmem_block_find(pages, index / GMEM_BLOCK_PAGES);
	if (!block)
		return 0;
	if (order < GMEM_BLOCK_ORDER)
		return (gmem_block_state(block, index % GMEM_BLOCK_PAGES) & state) == state;
	return gmem_block_all_have(block, state);
}

int gmem_unit_any(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state)
{
	const struct gmem_block *block;

	if (order > GMEM_BLOCK_ORDER) {
		const u64 *blocks = gigantic_find(pages, index / GMEM_BLOCK_PAGES);

		return blocks && any_block_has(blocks, state);
	}
	block = gmem_block_find(pages, index / GMEM_BLOCK_PAGES);
	if (!block)
		return 0;
	if (order < GMEM_BLOCK_ORDER)
		return (gmem_block_state(block, index % GMEM_BLOCK_PAGES) & state) != 0;
	return gmem_block_any_has(block, state);
}

int gmem_block_add_page(const struct gmem_pages *pages, struct gmem_block *block, u32 off,
			pfn_t pfn)
{
	u64 want = ((pfn.v - off) & GMEM_BASE_MASK) | GMEM_BASE_VALID;
	u64 base = 0;
	u64 *list;

	CHECK(lock_rank_is_held(RANK_GMEM_PUNCH));
	CHECK(!(gmem_block_state(block, off) & GMEM_PAGE_EXISTS));
	if (atomic_cmpxchg_relaxed_u64(&block->base, &base, want) || base == want) {
		gmem_block_set(block, off, GMEM_PAGE_EXISTS);
		return 0;
	}
	list = link_make(pages, (void **)&block->list, GMEM_BLOCK_PAGES * sizeof(u64));
	if (!list)
		return -ENOMEM;
	atomic_store_relaxed_u64(&list[off], pfn.v);
	gmem_block_set(block, off, GMEM_PAGE_EXISTS | GMEM_PAGE_SCATTERED);
	return 0;
}

/* A unit's word until poison was looked for: this and the joiner's number. */
#define UNIT_ASKED 0x10000u

/*
 * Pages become one unit, which @unit says, unless a lost one is among them. Poison comes at any
 * time: here the word is stored before the poison is looked for, in gmem_page_poison() the other
 * way round. Until that look no reader takes the pages for a unit: it would map a lost one with the
 * others. Joiners of 1 GiB may meet, so each stores its own number.
 */
static u32 unit_ask(u32 *unit, u32 joiner)
{
	atomic_store_relaxed_u32(unit, UNIT_ASKED + joiner);
	atomic_fence(); /* pairs with gmem_block_set() in gmem_page_poison() */
	return UNIT_ASKED + joiner;
}

/* Poison that came after the look has changed the word. */
static void unit_say(u32 *unit, u32 asked, u32 order)
{
	(void)atomic_cmpxchg_relaxed_u32(unit, &asked, order);
}

void gmem_block_join(struct gmem_block *block)
{
	u32 asked;

	CHECK(gmem_block_all_have(block, GMEM_PAGE_EXISTS));
	CHECK(lock_rank_is_held(RANK_GMEM_PUNCH));
	asked = unit_ask(&block->order, 0);
	unit_say(&block->order, asked,
		 gmem_block_any_has(block, GMEM_PAGE_POISONED) ? 0 : GMEM_BLOCK_ORDER);
}

int gmem_block_add_unit(const struct gmem_pages *pages, struct gmem_block *block, pfn_t pfn)
{
	for (u32 off = 0; off < GMEM_BLOCK_PAGES; off++) {
		int error;

		if (gmem_block_state(block, off) & GMEM_PAGE_EXISTS)
			continue;
		error = gmem_block_add_page(pages, block, off, (pfn_t){pfn.v + off});
		if (error)
			return error;
	}
	gmem_block_join(block);
	return 0;
}

/* Is the block one unit, of the frames from @base on? */
static bool is_unit_at(const struct gmem_block *block, u64 base)
{
	return block && gmem_block_is_unit(block) &&
	       atomic_load_relaxed_u64(&block->base) == base &&
	       !gmem_block_any_has(block, GMEM_PAGE_SCATTERED);
}

void gmem_gigantic_join(const struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GMEM_GIGANTIC_PAGES), base;
	const u64 *blocks = gigantic_find(pages, first / GMEM_BLOCK_PAGES);
	struct gmem_block *block;
	u32 asked;

	if (pages->max_order < GMEM_GIGANTIC_ORDER || !blocks)
		return;
	block = gmem_block_at(blocks);
	if (!block)
		return;
	base = atomic_load_relaxed_u64(&block->base);
	if (!is_aligned_u64(base & GMEM_BASE_MASK, GMEM_GIGANTIC_PAGES))
		return;
	for (u32 i = 0; i < GMEM_GIGANTIC_BLOCKS; i++)
		if (!is_unit_at(gmem_block_at(&blocks[i]), base + i * GMEM_BLOCK_PAGES))
			return;
	CHECK(lock_rank_is_held(RANK_GMEM_PUNCH));
	CHECK(first + GMEM_GIGANTIC_PAGES <= pages->npages);
	asked = unit_ask(&block->gigantic, (u32)((index - first) / GMEM_BLOCK_PAGES));
	unit_say(&block->gigantic, asked,
		 any_block_has(blocks, GMEM_PAGE_POISONED) ? 0 : GMEM_GIGANTIC_ORDER);
}

void gmem_block_break(const struct gmem_pages *pages, struct gmem_block *block, u64 block_no)
{
	const u64 *blocks = gigantic_find(pages, block_no);
	struct gmem_block *first = gmem_block_at(blocks);

	CHECK(gmem_block_find(pages, block_no) == block);
	CHECK(!blocks || gmem_block_at(&blocks[block_no % GMEM_GIGANTIC_BLOCKS]) == block);
	atomic_store_relaxed_u32(&block->order, 0);
	/* Also where a joiner is about to say so. */
	if (first && atomic_load_relaxed_u32(&first->gigantic))
		atomic_store_relaxed_u32(&first->gigantic, 0);
}

void gmem_page_poison(struct gmem_pages *pages, u64 index)
{
	struct gmem_block *block;

	if (index >= pages->npages)
		return;
	block = gmem_block_make(pages, index / GMEM_BLOCK_PAGES);
	if (!block) {
		note_lost(pages, index);
		/* Another thread may have made it before that. */
		block = gmem_block_find(pages, index / GMEM_BLOCK_PAGES);
	}
	if (!block)
		return;
	gmem_block_set(block, index % GMEM_BLOCK_PAGES, GMEM_PAGE_POISONED);
	gmem_block_break(pages, block, index / GMEM_BLOCK_PAGES);
}
