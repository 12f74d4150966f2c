/* The tree of blocks of a guest_memfd inode: what is where, and what the host gave as one unit. */
#include "src/gmem/block.h"

#include <errno.h>

#define RADIX_BITS 9u
#define RADIX_SLOTS (1u << RADIX_BITS)

/* The lowest nodes have as many blocks as make 1 GiB. */
struct radix_node {
	void *slots[RADIX_SLOTS]; /* (a) */
	u32 gigantic;		  /* (a) the host gave all its blocks as one unit */
};
_Static_assert(RADIX_SLOTS == GMEM_GIGANTIC_BLOCKS, "the blocks of a node are 1 GiB");

unsigned int gmem_blocks_height(u64 npages)
{
	u64 blocks = (npages + GMEM_BLOCK_PAGES - 1) / GMEM_BLOCK_PAGES;
	unsigned int height = 0;

	while (height * RADIX_BITS < 64 && blocks > UINT64_C(1) << height * RADIX_BITS)
		height++;
	return height;
}

static void radix_destroy(struct gmem_pages *pages, void *at, unsigned int level)
{
	struct radix_node *node = at;
	struct gmem_block *block = at;

	if (!at)
		return;
	if (level == 0) {
		if (block->list)
			pages->host->free(pages->host_ctx, block->list,
					  GMEM_BLOCK_PAGES * sizeof(u64));
		pages->host->free(pages->host_ctx, block, sizeof(*block));
		return;
	}
	for (u32 i = 0; i < RADIX_SLOTS; i++)
		radix_destroy(pages, node->slots[i], level - 1);
	pages->host->free(pages->host_ctx, node, sizeof(*node));
}

void gmem_blocks_free(struct gmem_pages *pages)
{
	radix_destroy(pages, pages->root, pages->height);
	pages->root = NULL;
}

static u32 radix_index(u64 block_no, unsigned int level)
{
	return (u32)(block_no >> (level - 1) * RADIX_BITS) % RADIX_SLOTS;
}

/*
 * What hangs at *@level above @block_no: 0 is the block, 1 the node of its 1 GiB. NULL: nothing at
 * *@level, which may be a higher one now.
 */
static always_inline void *radix_find(const struct gmem_pages *pages, u64 block_no,
				      unsigned int *level)
{
	void *at = atomic_load_acquire_ptr(&pages->root);
	unsigned int above = pages->height;

	while (at && above > *level) {
		struct radix_node *node = at;

		at = atomic_load_acquire_ptr(&node->slots[radix_index(block_no, above)]);
		above--;
	}
	*level = above;
	return at;
}

struct gmem_block *gmem_block_find(const struct gmem_pages *pages, u64 block_no)
{
	unsigned int level = 0;

	return radix_find(pages, block_no, &level);
}

/* The node of the 1 GiB around @block_no; NULL: there is none. */
static struct radix_node *node_find(const struct gmem_pages *pages, u64 block_no)
{
	unsigned int level = 1;

	return pages->height ? radix_find(pages, block_no, &level) : NULL;
}

struct gmem_block *gmem_block_next(const struct gmem_pages *pages, u64 *block_no, u64 end)
{
	while (*block_no < end) {
		unsigned int level = 0;
		void *at = radix_find(pages, *block_no, &level);

		if (at)
			return at;
		/* Nothing at this level: on to where the next entry of it begins. */
		*block_no = ((*block_no >> level * RADIX_BITS) + 1) << level * RADIX_BITS;
	}
	return NULL;
}

/* What @link points at, made if it was not there; NULL without memory. */
static void *link_make(const struct gmem_pages *pages, void **link, size_t size_bytes)
{
	void *there = atomic_load_acquire_ptr(link);
	void *made;

	if (there)
		return there;
	made = pages->host->alloc(pages->host_ctx, size_bytes);
	if (!made)
		return NULL;
	if (atomic_cmpxchg_ptr(link, &there, made))
		return made;
	/* Another thread was first. */
	pages->host->free(pages->host_ctx, made, size_bytes);
	return there;
}

/* The block, which is there now, hears which of its pages were lost before it was. */
static void block_hear_lost(struct gmem_pages *pages, struct gmem_block *block, u64 block_no)
{
	for (u32 i = 0; i < GMEM_LOST_PAGES; i++) {
		u64 lost = atomic_load_relaxed_u64(&pages->lost[i]);

		if (!lost || (lost - 1) / GMEM_BLOCK_PAGES != block_no)
			continue;
		gmem_block_set(block, (u32)(lost - 1) % GMEM_BLOCK_PAGES, GMEM_PAGE_POISONED);
		gmem_block_break(pages, block, block_no);
		(void)atomic_cmpxchg_u64(&pages->lost[i], &lost, 0);
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

	for (u32 i = 0; i < GMEM_LOST_PAGES && !noted; i++) {
		u64 free = 0;

		noted = atomic_cmpxchg_u64(&pages->lost[i], &free, index + 1) || free == index + 1;
	}
	if (!noted)
		atomic_store_relaxed_u32(&pages->all_lost, 1);
	atomic_store_relaxed_u32(&pages->any_lost, 1);
	atomic_fence(); /* pairs with the link of a block that is made meanwhile */
}

void gmem_lost_forget(struct gmem_pages *pages, u64 first, u64 npages)
{
	if (likely(!atomic_load_relaxed_u32(&pages->any_lost)))
		return;
	for (u32 i = 0; i < GMEM_LOST_PAGES; i++) {
		u64 lost = atomic_load_relaxed_u64(&pages->lost[i]);

		if (lost && lost - 1 >= first && lost - 1 - first < npages)
			(void)atomic_cmpxchg_u64(&pages->lost[i], &lost, 0);
	}
	if (!first && npages >= pages->npages)
		atomic_store_relaxed_u32(&pages->all_lost, 0);
}

static struct gmem_block *block_link(struct gmem_pages *pages, u64 block_no)
{
	void **link = &pages->root;

	for (unsigned int level = pages->height; level > 0; level--) {
		struct radix_node *node = link_make(pages, link, sizeof(*node));

		if (!node)
			return NULL;
		link = &node->slots[radix_index(block_no, level)];
	}
	return link_make(pages, link, sizeof(struct gmem_block));
}

struct gmem_block *gmem_block_make(struct gmem_pages *pages, u64 block_no)
{
	bool fresh = unlikely(atomic_load_relaxed_u32(&pages->all_lost)) &&
		     !gmem_block_find(pages, block_no);
	struct gmem_block *block = block_link(pages, block_no);

	if (!block)
		return NULL;
	if (unlikely(fresh))
		block_lose_all(pages, block, block_no);
	if (unlikely(atomic_load_relaxed_u32(&pages->any_lost)))
		block_hear_lost(pages, block, block_no);
	return block;
}

static bool is_gigantic(const struct radix_node *node)
{
	return node && atomic_load_relaxed_u32(&node->gigantic);
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
	page->order = atomic_load_relaxed_u32(&block->order);
	if (page->order && is_gigantic(node_find(pages, index / GMEM_BLOCK_PAGES)))
		page->order = GMEM_GIGANTIC_ORDER;
}

static bool node_all_have(const struct radix_node *node, u32 bit)
{
	for (u32 i = 0; i < RADIX_SLOTS; i++) {
		const struct gmem_block *block = atomic_load_acquire_ptr(&node->slots[i]);

		if (!block || !gmem_block_all_have(block, bit))
			return false;
	}
	return true;
}

static bool node_any_has(const struct radix_node *node, u32 bit)
{
	for (u32 i = 0; i < RADIX_SLOTS; i++) {
		const struct gmem_block *block = atomic_load_acquire_ptr(&node->slots[i]);

		if (block && gmem_block_any_has(block, bit))
			return true;
	}
	return false;
}

int gmem_unit_has(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state)
{
	const struct gmem_block *block;

	if (order > GMEM_BLOCK_ORDER) {
		const struct radix_node *node = node_find(pages, index / GMEM_BLOCK_PAGES);

		return is_gigantic(node) && node_all_have(node, state);
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
		const struct radix_node *node = node_find(pages, index / GMEM_BLOCK_PAGES);

		return node && node_any_has(node, state);
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

	if (atomic_cmpxchg_u64(&block->base, &base, want) || base == want) {
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

/*
 * The block is one unit, unless a page of it is lost. Poison comes at any time: here the order is
 * stored before the poison is looked for, in gmem_page_poison() the other way round.
 */
static void block_join(struct gmem_block *block)
{
	atomic_store_relaxed_u32(&block->order, GMEM_BLOCK_ORDER);
	atomic_fence(); /* pairs with gmem_block_set() in gmem_page_poison() */
	if (gmem_block_any_has(block, GMEM_PAGE_POISONED))
		atomic_store_relaxed_u32(&block->order, 0);
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
	block_join(block);
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
	struct radix_node *node = node_find(pages, first / GMEM_BLOCK_PAGES);
	const struct gmem_block *block;

	if (pages->max_order < GMEM_GIGANTIC_ORDER || !node)
		return;
	block = atomic_load_acquire_ptr(&node->slots[0]);
	base = block ? atomic_load_relaxed_u64(&block->base) : 0;
	if (!is_aligned_u64(base & GMEM_BASE_MASK, GMEM_GIGANTIC_PAGES))
		return;
	for (u32 i = 0; i < RADIX_SLOTS; i++)
		if (!is_unit_at(atomic_load_acquire_ptr(&node->slots[i]),
				base + i * GMEM_BLOCK_PAGES))
			return;
	atomic_store_relaxed_u32(&node->gigantic, 1);
	atomic_fence(); /* pairs with gmem_block_set() in gmem_page_poison(): see block_join() */
	if (node_any_has(node, GMEM_PAGE_POISONED))
		atomic_store_relaxed_u32(&node->gigantic, 0);
}

void gmem_block_break(const struct gmem_pages *pages, struct gmem_block *block, u64 block_no)
{
	struct radix_node *node = node_find(pages, block_no);

	atomic_store_relaxed_u32(&block->order, 0);
	if (is_gigantic(node))
		atomic_store_relaxed_u32(&node->gigantic, 0);
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
