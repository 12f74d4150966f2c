/* Pages of a guest_memfd inode: state, place, and the steps that bring them into use. */
#include "src/vm/gmem_pages.h"

#include <errno.h>

#include "src/base/mutant.h"

#define UNIT_ORDER QUIRE_TABLE_BITS /* order of a whole block */
#define RADIX_BITS 9u
#define RADIX_SLOTS (1u << RADIX_BITS)
#define GIGANTIC_PAGES (UINT64_C(1) << GMEM_GIGANTIC_ORDER)
#define WORD_PAGES 8u /* states in one word */
#define BLOCK_WORDS (GMEM_BLOCK_PAGES / WORD_PAGES)
#define EVERY_PAGE UINT64_C(0x0101010101010101)
#define GMEM_PAGE_ALL 0xffu

/* Frames of a block are base + offset, but for those that are SCATTERED. */
#define BASE_VALID (UINT64_C(1) << 63)
#define BASE_MASK (BASE_VALID - 1)

struct gmem_block {
	u64 states[BLOCK_WORDS]; /* (a) a byte a page */
	u64 base;		 /* (a) frame of the block's first page, and BASE_VALID */
	u64 *list;		 /* (a) frames of SCATTERED pages, or NULL */
	u32 order;		 /* (a) UNIT_ORDER: the host gave the block as one unit */
};

/* The lowest nodes have as many blocks as make 1 GiB. */
struct radix_node {
	void *slots[RADIX_SLOTS]; /* (a) */
	u32 gigantic;		  /* (a) the host gave all its blocks as one unit */
};
_Static_assert(RADIX_SLOTS *GMEM_BLOCK_PAGES == GIGANTIC_PAGES, "the blocks of a node are 1 GiB");

void gmem_pages_init(struct gmem_pages *pages, const struct quire_host_ops *host, void *host_ctx,
		     u64 npages)
{
	u64 blocks = (npages + GMEM_BLOCK_PAGES - 1) / GMEM_BLOCK_PAGES;

	pages->host = host;
	pages->host_ctx = host_ctx;
	pages->npages = npages;
	while (pages->height * RADIX_BITS < 64 && blocks > UINT64_C(1)
							       << pages->height * RADIX_BITS)
		pages->height++;
	rwlock_init(&pages->punch_lock, RANK_GMEM_PUNCH);
	for (u32 i = 0; i < GMEM_PAGE_LOCKS; i++)
		mutex_init(&pages->locks[i].mutex, RANK_GMEM_PAGE);
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

void gmem_pages_destroy(struct gmem_pages *pages)
{
	radix_destroy(pages, pages->root, pages->height);
	pages->root = NULL;
}

static u32 radix_index(u64 block_no, unsigned int level)
{
	return (u32)(block_no >> (level - 1) * RADIX_BITS) % RADIX_SLOTS;
}

static struct gmem_block *block_find(const struct gmem_pages *pages, u64 block_no)
{
	void *at = atomic_load_acquire_ptr(&pages->root);

	for (unsigned int level = pages->height; at && level > 0; level--) {
		struct radix_node *node = at;

		at = atomic_load_acquire_ptr(&node->slots[radix_index(block_no, level)]);
	}
	return at;
}

/* The lowest node above @block_no; NULL where there is none. */
static struct radix_node *node_find(const struct gmem_pages *pages, u64 block_no)
{
	void *at = pages->height ? atomic_load_acquire_ptr(&pages->root) : NULL;

	for (unsigned int level = pages->height; at && level > 1; level--) {
		struct radix_node *node = at;

		at = atomic_load_acquire_ptr(&node->slots[radix_index(block_no, level)]);
	}
	return at;
}

static bool is_gigantic(const struct radix_node *node)
{
	return node && atomic_load_relaxed_u32(&node->gigantic);
}

/* Something happens to a part of 1 GiB: its blocks are units of their own from now on. */
static void gigantic_break(const struct gmem_pages *pages, u64 block_no)
{
	struct radix_node *node = node_find(pages, block_no);

	if (is_gigantic(node))
		atomic_store_relaxed_u32(&node->gigantic, 0);
}

/* What @link points at, made if it was not there; NULL without memory. */
static void *link_make(struct gmem_pages *pages, void **link, size_t size_bytes)
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

static struct gmem_block *block_make(struct gmem_pages *pages, u64 block_no)
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

/* The first block from *@block_no on, below @end, that is there; *@block_no is its number. */
static struct gmem_block *block_next(const struct gmem_pages *pages, u64 *block_no, u64 end)
{
	while (*block_no < end) {
		void *at = atomic_load_acquire_ptr(&pages->root);
		unsigned int level = pages->height;

		while (at && level > 0) {
			struct radix_node *node = at;

			at = atomic_load_acquire_ptr(&node->slots[radix_index(*block_no, level)]);
			level--;
		}
		if (at)
			return at;
		/* Nothing at this level: on to where the next entry of it begins. */
		*block_no = ((*block_no >> level * RADIX_BITS) + 1) << level * RADIX_BITS;
	}
	return NULL;
}

static u32 state_read(const struct gmem_block *block, u32 off)
{
	u64 word = atomic_load_acquire_u64(&block->states[off / WORD_PAGES]);

	return word >> off % WORD_PAGES * 8 & 0xff;
}

static void state_set(struct gmem_block *block, u32 off, u32 bits)
{
	atomic_fetch_or_u64(&block->states[off / WORD_PAGES], (u64)bits << off % WORD_PAGES * 8);
}

static void state_clear(struct gmem_block *block, u32 off, u32 bits)
{
	atomic_fetch_and_u64(&block->states[off / WORD_PAGES],
			     ~((u64)bits << off % WORD_PAGES * 8));
}

static pfn_t page_pfn(const struct gmem_block *block, u32 off, u32 state)
{
	const u64 *list = atomic_load_acquire_ptr(&block->list);

	if ((state & GMEM_PAGE_SCATTERED) && list)
		return (pfn_t){atomic_load_relaxed_u64(&list[off])};
	return (pfn_t){(atomic_load_relaxed_u64(&block->base) + off) & BASE_MASK};
}

void gmem_page_read(const struct gmem_pages *pages, u64 index, struct gmem_page *page)
{
	const struct gmem_block *block = block_find(pages, index / GMEM_BLOCK_PAGES);
	u32 off = index % GMEM_BLOCK_PAGES;

	*page = (struct gmem_page){0};
	if (!block)
		return;
	page->state = state_read(block, off);
	page->pfn = page_pfn(block, off, page->state);
	page->order = atomic_load_relaxed_u32(&block->order);
	if (page->order && is_gigantic(node_find(pages, index / GMEM_BLOCK_PAGES)))
		page->order = GMEM_GIGANTIC_ORDER;
}

/* Is @bit set in all pages of the block? */
static bool block_all_have(const struct gmem_block *block, u32 bit)
{
	for (u32 i = 0; i < BLOCK_WORDS; i++) {
		u64 word = atomic_load_acquire_u64(&block->states[i]);

		if ((word & bit * EVERY_PAGE) != bit * EVERY_PAGE)
			return false;
	}
	return true;
}

static bool block_any_has(const struct gmem_block *block, u32 bit)
{
	u64 seen = 0;

	for (u32 i = 0; i < BLOCK_WORDS; i++)
		seen |= atomic_load_relaxed_u64(&block->states[i]);
	return seen & bit * EVERY_PAGE;
}

static bool node_all_have(const struct radix_node *node, u32 bit)
{
	for (u32 i = 0; i < RADIX_SLOTS; i++) {
		const struct gmem_block *block = atomic_load_acquire_ptr(&node->slots[i]);

		if (!block || !block_all_have(block, bit))
			return false;
	}
	return true;
}

static bool node_any_has(const struct radix_node *node, u32 bit)
{
	for (u32 i = 0; i < RADIX_SLOTS; i++) {
		const struct gmem_block *block = atomic_load_acquire_ptr(&node->slots[i]);

		if (block && block_any_has(block, bit))
			return true;
	}
	return false;
}

int gmem_unit_has(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state)
{
	const struct gmem_block *block = block_find(pages, index / GMEM_BLOCK_PAGES);

	if (order > UNIT_ORDER) {
		const struct radix_node *node = node_find(pages, index / GMEM_BLOCK_PAGES);

		return is_gigantic(node) && node_all_have(node, state);
	}
	if (!block)
		return 0;
	if (order < UNIT_ORDER)
		return (state_read(block, index % GMEM_BLOCK_PAGES) & state) == state;
	return block_all_have(block, state);
}

int gmem_unit_any(const struct gmem_pages *pages, u64 index, unsigned int order, u32 state)
{
	const struct gmem_block *block = block_find(pages, index / GMEM_BLOCK_PAGES);

	if (order > UNIT_ORDER) {
		const struct radix_node *node = node_find(pages, index / GMEM_BLOCK_PAGES);

		return node && node_any_has(node, state);
	}
	if (!block)
		return 0;
	if (order < UNIT_ORDER)
		return (state_read(block, index % GMEM_BLOCK_PAGES) & state) != 0;
	return block_any_has(block, state);
}

/* A page at work: its block, and the lock that is held. */
struct page_work {
	struct gmem_pages *pages;
	struct gmem_block *block;
	struct mutex *lock;
	u64 index;
	u32 off;
};

/* Note that the page at @off exists at @pfn. */
static int page_place(struct page_work *work, u32 off, pfn_t pfn)
{
	struct gmem_block *block = work->block;
	u64 want = ((pfn.v - off) & BASE_MASK) | BASE_VALID;
	u64 base = 0;
	u64 *list;

	if (atomic_cmpxchg_u64(&block->base, &base, want) || base == want) {
		state_set(block, off, GMEM_PAGE_EXISTS);
		return 0;
	}
	list = link_make(work->pages, (void **)&block->list, GMEM_BLOCK_PAGES * sizeof(u64));
	if (!list)
		return -ENOMEM;
	atomic_store_relaxed_u64(&list[off], pfn.v);
	state_set(block, off, GMEM_PAGE_EXISTS | GMEM_PAGE_SCATTERED);
	return 0;
}

/* Order of the unit that store_get() gave, as this file keeps it: a page or a whole block. */
static bool is_whole_block(const struct page_work *work, unsigned int order)
{
	u64 first = round_down_u64(work->index, GMEM_BLOCK_PAGES);

	return order >= UNIT_ORDER && first + GMEM_BLOCK_PAGES <= work->pages->npages;
}

/*
 * The block is one unit, unless a page of it is lost. Poison comes at any time: here the order is
 * stored before the poison is looked for, in gmem_page_poison() the other way round.
 */
static void block_join(struct gmem_block *block)
{
	atomic_store_relaxed_u32(&block->order, UNIT_ORDER);
	atomic_fence(); /* pairs with state_set() in gmem_page_poison() */
	if (block_any_has(block, GMEM_PAGE_POISONED))
		atomic_store_relaxed_u32(&block->order, 0);
}

/* The host gave the whole block, whose first page is at @pfn. */
static int block_place(struct page_work *work, pfn_t pfn)
{
	for (u32 off = 0; off < GMEM_BLOCK_PAGES; off++) {
		int error;

		if (state_read(work->block, off) & GMEM_PAGE_EXISTS)
			continue;
		error = page_place(work, off, (pfn_t){pfn.v + off});
		if (error)
			return error;
	}
	block_join(work->block);
	return 0;
}

/* Ask the host for the page and up to 2^*@order around it; what it gave, up to a block, is placed.
 */
static int page_get(struct page_work *work, unsigned int *order, pfn_t *pfn)
{
	const struct gmem_pages *pages = work->pages;
	int error = pages->host->store_get(pages->host_ctx, pages->store, work->index, order, pfn);

	if (error)
		return error;
	if (!is_whole_block(work, *order))
		return page_place(work, work->off, *pfn);
	return block_place(work, (pfn_t){pfn->v - work->off});
}

/* Is the block one unit, of the frames from @base on? */
static bool is_unit_at(const struct gmem_block *block, u64 base)
{
	return block && atomic_load_relaxed_u32(&block->order) == UNIT_ORDER &&
	       atomic_load_relaxed_u64(&block->base) == base &&
	       !block_any_has(block, GMEM_PAGE_SCATTERED);
}

/* A block has just become one unit. Where 512 of them are one aligned row of frames, so are they
 * together: see block_join(). */
static void gigantic_join(const struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GIGANTIC_PAGES), base;
	struct radix_node *node = node_find(pages, first / GMEM_BLOCK_PAGES);
	const struct gmem_block *block;

	if (pages->max_order < GMEM_GIGANTIC_ORDER || !node)
		return;
	block = atomic_load_acquire_ptr(&node->slots[0]);
	base = block ? atomic_load_relaxed_u64(&block->base) : 0;
	if (!is_aligned_u64(base & BASE_MASK, GIGANTIC_PAGES))
		return;
	for (u32 i = 0; i < RADIX_SLOTS; i++)
		if (!is_unit_at(atomic_load_acquire_ptr(&node->slots[i]),
				base + i * GMEM_BLOCK_PAGES))
			return;
	atomic_store_relaxed_u32(&node->gigantic, 1);
	atomic_fence(); /* pairs with state_set() in gmem_page_poison() */
	if (node_any_has(node, GMEM_PAGE_POISONED))
		atomic_store_relaxed_u32(&node->gigantic, 0);
}

static int page_make_exist(struct page_work *work)
{
	unsigned int order = work->pages->max_order ? UNIT_ORDER : 0;
	pfn_t pfn;
	int error = page_get(work, &order, &pfn);

	if (!error && order)
		gigantic_join(work->pages, work->index);
	return error;
}

/* May the 1 GiB around @index become one unit: inside the file, and nothing of it there yet? */
static bool gigantic_is_possible(const struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GIGANTIC_PAGES);
	const struct radix_node *node;

	if (pages->max_order < GMEM_GIGANTIC_ORDER || first + GIGANTIC_PAGES > pages->npages)
		return false;
	node = node_find(pages, first / GMEM_BLOCK_PAGES);
	return !node || !node_any_has(node, GMEM_PAGE_EXISTS | GMEM_PAGE_POISONED);
}

/* The page at @index is placed, at @pfn, and its block: place the others. */
static void gigantic_place(struct gmem_pages *pages, u64 index, pfn_t pfn)
{
	u64 first = round_down_u64(index, GIGANTIC_PAGES) / GMEM_BLOCK_PAGES;
	struct page_work work = {.pages = pages};

	pfn.v -= index % GIGANTIC_PAGES;
	for (u32 i = 0; i < RADIX_SLOTS; i++, pfn.v += GMEM_BLOCK_PAGES) {
		work.block = block_find(pages, first + i);
		if (block_place(&work, pfn))
			return;
	}
	gigantic_join(pages, index);
}

/* No page of the block exists: frames it once had need not be remembered. */
static struct gmem_block *block_make_anew(struct gmem_pages *pages, u64 block_no)
{
	struct gmem_block *block = block_make(pages, block_no);

	if (block)
		atomic_store_relaxed_u64(&block->base, 0);
	return block;
}

/* Under punch_lock exclusive: nobody else works at any page. */
static void gigantic_get(struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GIGANTIC_PAGES) / GMEM_BLOCK_PAGES;
	struct page_work work = {
	    .pages = pages,
	    .index = index,
	    .off = index % GMEM_BLOCK_PAGES,
	};
	unsigned int order = GMEM_GIGANTIC_ORDER;
	pfn_t pfn;

	for (u32 i = 0; i < RADIX_SLOTS; i++)
		if (!block_make_anew(pages, first + i))
			return;
	work.block = block_find(pages, index / GMEM_BLOCK_PAGES);
	if (!page_get(&work, &order, &pfn) && order >= GMEM_GIGANTIC_ORDER)
		gigantic_place(pages, index, pfn);
}

/*
 * The first page of 1 GiB is wanted: try to have all of it as one unit. Whatever fails here is left
 * to the page's own work, which asks for less. Zeroing and preparing go block by block, as ever.
 */
static void gigantic_make_exist(struct gmem_pages *pages, u64 index)
{
	if (likely(!gigantic_is_possible(pages, index)))
		return;
	rwlock_write_lock(&pages->punch_lock);
	if (gigantic_is_possible(pages, index))
		gigantic_get(pages, index);
	rwlock_write_unlock(&pages->punch_lock);
}

/* All pages of a block share a lock, where one store_get() may make them. */
static int work_begin(struct page_work *work, struct gmem_pages *pages, u64 index) NO_LOCK_ANALYSIS
{
	u64 unit = pages->max_order ? index / GMEM_BLOCK_PAGES : index;

	gigantic_make_exist(pages, index);
	work->pages = pages;
	work->index = index;
	work->off = index % GMEM_BLOCK_PAGES;
	work->block = block_make(pages, index / GMEM_BLOCK_PAGES);
	if (!work->block)
		return -ENOMEM;
	work->lock = &pages->locks[unit % GMEM_PAGE_LOCKS].mutex;
	rwlock_read_lock(&pages->punch_lock);
	mutex_lock(work->lock);
	return 0;
}

static void work_end(struct page_work *work) NO_LOCK_ANALYSIS
{
	mutex_unlock(work->lock);
	rwlock_read_unlock(&work->pages->punch_lock);
}

/* The part of the block that is brought into use together: [*@first, *@end). */
static void work_unit(const struct page_work *work, u32 *first, u32 *end)
{
	bool whole = atomic_load_relaxed_u32(&work->block->order) == UNIT_ORDER;

	*first = whole ? 0 : work->off;
	*end = whole ? GMEM_BLOCK_PAGES : work->off + 1;
}

static bool is_fresh(const struct gmem_block *block, u32 off)
{
	return !(state_read(block, off) & GMEM_PAGE_UP_TO_DATE);
}

/* A block that has just become one unit may have pages that were never used. */
static bool unit_is_fresh(const struct page_work *work)
{
	if (atomic_load_relaxed_u32(&work->block->order) == UNIT_ORDER)
		return !block_all_have(work->block, GMEM_PAGE_UP_TO_DATE);
	return is_fresh(work->block, work->off);
}

/* Zero what was never used, in runs. */
static int page_make_up_to_date(struct page_work *work)
{
	const struct gmem_pages *pages = work->pages;
	u64 block_index = work->index - work->off;
	u32 at, end;

	work_unit(work, &at, &end);
	while (at < end) {
		u32 stop = at;
		int error;

		while (stop < end && is_fresh(work->block, stop))
			stop++;
		if (stop == at) {
			at++;
			continue;
		}
		error = MUTANT(page_unzeroed)
			    ? 0
			    : pages->host->store_zero(pages->host_ctx, pages->store,
						      block_index + at, stop - at);
		if (error)
			return error;
		for (; at < stop; at++)
			state_set(work->block, at, GMEM_PAGE_UP_TO_DATE);
	}
	return 0;
}

/* Is the page, or with @order the block, PREPARED and still private? */
static bool is_prepared(const struct page_work *work, const struct gmem_prepare *prepare, u32 off,
			unsigned int order)
{
	u32 state = state_read(work->block, off);

	if (order ? !block_all_have(work->block, GMEM_PAGE_PREPARED)
		  : !(state & GMEM_PAGE_PREPARED))
		return false;
	return !prepare->is_private ||
	       prepare->is_private(prepare->ctx, work->index - work->off + off,
				   page_pfn(work->block, off, state), order);
}

static int prepare_one(struct page_work *work, const struct gmem_prepare *prepare, u32 off)
{
	u32 state = state_read(work->block, off);
	int error;

	if (is_prepared(work, prepare, off, 0))
		return 0;
	error = prepare->make_private(prepare->ctx, work->index - work->off + off,
				      page_pfn(work->block, off, state), 0);
	if (!error)
		state_set(work->block, off, GMEM_PAGE_PREPARED);
	return error;
}

/* A whole block at once if none of it is prepared yet, else page by page. */
static int page_make_private(struct page_work *work, const struct gmem_prepare *prepare)
{
	struct gmem_block *block = work->block;
	u32 first, end;
	int error;

	work_unit(work, &first, &end);
	if (prepare->order < UNIT_ORDER || end - first == 1)
		return prepare_one(work, prepare, work->off);
	if (block_any_has(block, GMEM_PAGE_PREPARED)) {
		for (error = 0; !error && first < end; first++)
			error = prepare_one(work, prepare, first);
		return error;
	}
	error = prepare->make_private(prepare->ctx, work->index - work->off,
				      page_pfn(block, 0, state_read(block, 0)), UNIT_ORDER);
	for (; !error && first < end; first++)
		state_set(block, first, GMEM_PAGE_PREPARED);
	return error;
}

static bool needs_prepare(const struct page_work *work, const struct gmem_prepare *prepare)
{
	if (prepare->order == UNIT_ORDER &&
	    atomic_load_relaxed_u32(&work->block->order) == UNIT_ORDER)
		return !is_prepared(work, prepare, 0, UNIT_ORDER);
	return !is_prepared(work, prepare, work->off, 0);
}

/* What was private for a gfn that is gone, or is shared now. */
static int page_make_shared(struct page_work *work, const struct gmem_prepare *prepare)
{
	u32 at = work->off, end = at + 1;
	int error = 0;

	if (prepare->order == UNIT_ORDER)
		work_unit(work, &at, &end);
	for (; !error && at < end; at++) {
		u32 state = state_read(work->block, at);

		if (!(state & GMEM_PAGE_PREPARED))
			continue;
		error = prepare->make_shared(prepare->ctx, work->index - work->off + at,
					     page_pfn(work->block, at, state));
		if (!error)
			state_clear(work->block, at, GMEM_PAGE_PREPARED);
	}
	return error;
}

static int page_prepare(struct page_work *work, const struct gmem_prepare *prepare)
{
	if (!prepare)
		return 0;
	if (!prepare->make_private)
		return page_make_shared(work, prepare);
	return needs_prepare(work, prepare) ? page_make_private(work, prepare) : 0;
}

static int work_result(const struct page_work *work, int error, struct gmem_page *page)
{
	gmem_page_read(work->pages, work->index, page);
	/* A page may be lost while it is worked on. */
	if (!error && (page->state & GMEM_PAGE_POISONED))
		error = -EHWPOISON;
	return error;
}

/* The page exists from here on, unless it is lost. */
static int page_exist(struct page_work *work)
{
	u32 state = state_read(work->block, work->off);

	if (state & GMEM_PAGE_POISONED)
		return -EHWPOISON;
	return state & GMEM_PAGE_EXISTS ? 0 : page_make_exist(work);
}

int gmem_page_create(struct gmem_pages *pages, u64 index, struct gmem_page *page)
{
	struct page_work work;
	int error = work_begin(&work, pages, index);

	if (error)
		return error;
	error = work_result(&work, page_exist(&work), page);
	work_end(&work);
	return error;
}

int gmem_page_use(struct gmem_pages *pages, u64 index, const struct gmem_prepare *prepare,
		  struct gmem_page *page)
{
	struct page_work work;
	int error = work_begin(&work, pages, index);

	if (error)
		return error;
	error = page_exist(&work);
	if (!error && unit_is_fresh(&work))
		error = page_make_up_to_date(&work);
	if (!error)
		error = page_prepare(&work, prepare);
	error = work_result(&work, error, page);
	work_end(&work);
	return error;
}

int gmem_page_fill(struct gmem_pages *pages, u64 index, const struct gmem_prepare *prepare,
		   const struct gmem_filler *filler)
{
	struct gmem_page page;
	struct page_work work;
	int error = work_begin(&work, pages, index);

	if (error)
		return error;
	error = page_exist(&work);
	/* Private first: what is filled in must not be left in a page that was refused. */
	if (!error && prepare)
		error = prepare_one(&work, prepare, work.off);
	if (!error) {
		gmem_page_read(pages, index, &page);
		error = filler->fill(filler->ctx, index, page.pfn);
	}
	if (!error)
		state_set(work.block, work.off, GMEM_PAGE_UP_TO_DATE);
	work_end(&work);
	return error;
}

/* A part of a block. */
struct block_part {
	struct gmem_block *block;
	u32 first, end;
};

/* The blocks there are in a range of pages, one part after the other. */
struct pages_walk {
	const struct gmem_pages *pages;
	u64 first, end;
	u64 block_no;
};

/* False: the range is empty, or past the end of the file. */
static bool walk_begin(struct pages_walk *walk, const struct gmem_pages *pages, u64 first,
		       u64 npages)
{
	u64 most = pages->npages - min_u64(first, pages->npages);

	*walk = (struct pages_walk){
	    .pages = pages,
	    .first = first,
	    .end = first + min_u64(npages, most),
	    .block_no = first / GMEM_BLOCK_PAGES,
	};
	return npages && most;
}

static bool walk_next(struct pages_walk *walk, struct block_part *part)
{
	u64 last = (walk->end + GMEM_BLOCK_PAGES - 1) / GMEM_BLOCK_PAGES, base;

	part->block = block_next(walk->pages, &walk->block_no, last);
	if (!part->block)
		return false;
	base = walk->block_no++ * GMEM_BLOCK_PAGES;
	part->first = (u32)(max_u64(walk->first, base) - base);
	part->end = (u32)(min_u64(walk->end, base + GMEM_BLOCK_PAGES) - base);
	return true;
}

/* Consecutive frames, gathered until one comes that does not follow. */
struct frame_run {
	const struct gmem_frames *frames;
	pfn_t start;
	u64 npages;
};

static void run_end(struct frame_run *run)
{
	if (run->npages)
		run->frames->tell(run->frames->ctx, run->start, run->npages);
	run->npages = 0;
}

static void run_add(struct frame_run *run, pfn_t pfn, u64 npages)
{
	if (run->npages && pfn.v != run->start.v + run->npages)
		run_end(run);
	if (!run->npages)
		run->start = pfn;
	run->npages += npages;
}

/* Is @off the first of WORD_PAGES pages of the part that have @state, at consecutive frames? */
static bool whole_word_has(const struct block_part *part, u32 off, u32 state)
{
	u64 word = atomic_load_acquire_u64(&part->block->states[off / WORD_PAGES]);

	return off % WORD_PAGES == 0 && part->end - off >= WORD_PAGES &&
	       (word & (state | GMEM_PAGE_SCATTERED) * EVERY_PAGE) == state * EVERY_PAGE;
}

/* Tell of the frames of the pages with @state in the part, in runs. */
static void part_tell(const struct block_part *part, u32 state, const struct gmem_frames *frames)
{
	struct frame_run run = {.frames = frames};
	u32 off = part->first;

	while (off < part->end) {
		u32 seen = state_read(part->block, off);
		u32 npages = whole_word_has(part, off, state) ? WORD_PAGES : 1;

		if (seen & state)
			run_add(&run, page_pfn(part->block, off, seen), npages);
		off += npages;
	}
	run_end(&run);
}

void gmem_pages_tell(const struct gmem_pages *pages, u64 first, u64 npages,
		     const struct gmem_frames *frames)
{
	struct pages_walk walk;
	struct block_part part;

	if (!walk_begin(&walk, pages, first, npages))
		return;
	while (walk_next(&walk, &part))
		part_tell(&part, GMEM_PAGE_EXISTS, frames);
}

void gmem_pages_tell_settled(struct gmem_pages *pages, u64 first, u64 npages,
			     const struct gmem_frames *frames)
{
	rwlock_write_lock(&pages->punch_lock);
	gmem_pages_tell(pages, first, npages, frames);
	rwlock_write_unlock(&pages->punch_lock);
}

/* Clear @bits of every page of the part. */
static void part_clear(const struct block_part *part, u32 bits)
{
	u32 off = part->first;

	while (off < part->end) {
		u64 *word = &part->block->states[off / WORD_PAGES];

		if (off % WORD_PAGES == 0 && part->end - off >= WORD_PAGES) {
			atomic_fetch_and_u64(word, ~(bits * EVERY_PAGE));
			off += WORD_PAGES;
			continue;
		}
		state_clear(part->block, off, bits);
		off++;
	}
}

void gmem_pages_make_shared(struct gmem_pages *pages, u64 first, u64 npages,
			    const struct gmem_frames *frames)
{
	struct pages_walk walk;
	struct block_part part;

	if (!walk_begin(&walk, pages, first, npages))
		return;
	rwlock_write_lock(&pages->punch_lock);
	while (walk_next(&walk, &part)) {
		part_tell(&part, GMEM_PAGE_PREPARED, frames);
		part_clear(&part, GMEM_PAGE_PREPARED);
	}
	rwlock_write_unlock(&pages->punch_lock);
}

void gmem_pages_punch(struct gmem_pages *pages, u64 first, u64 npages,
		      const struct gmem_frames *reclaim)
{
	struct pages_walk walk;
	struct block_part part;

	if (!walk_begin(&walk, pages, first, npages))
		return;
	rwlock_write_lock(&pages->punch_lock);
	while (walk_next(&walk, &part)) {
		if (reclaim)
			part_tell(&part, GMEM_PAGE_PREPARED, reclaim);
		gigantic_break(pages, walk.block_no - 1);
		atomic_store_relaxed_u32(&part.block->order, 0);
		part_clear(&part, GMEM_PAGE_ALL);
	}
	pages->host->store_punch(pages->host_ctx, pages->store, first, walk.end - first);
	rwlock_write_unlock(&pages->punch_lock);
}

/* The page of the block at frame @pfn, or GMEM_BLOCK_PAGES. */
static u32 block_find_frame(const struct gmem_block *block, pfn_t pfn)
{
	u32 off = 0;

	while (off < GMEM_BLOCK_PAGES) {
		u32 state = state_read(block, off);

		if ((state & GMEM_PAGE_EXISTS) && page_pfn(block, off, state).v == pfn.v)
			break;
		off++;
	}
	return off;
}

int gmem_pages_find(const struct gmem_pages *pages, pfn_t pfn, u64 *index)
{
	struct pages_walk walk;
	struct block_part part;

	if (!walk_begin(&walk, pages, 0, pages->npages))
		return 0;
	while (walk_next(&walk, &part)) {
		u64 base = atomic_load_relaxed_u64(&part.block->base) & BASE_MASK;
		u32 off = GMEM_BLOCK_PAGES;

		if (pfn.v - base < GMEM_BLOCK_PAGES || atomic_load_acquire_ptr(&part.block->list))
			off = block_find_frame(part.block, pfn);
		if (off == GMEM_BLOCK_PAGES)
			continue;
		*index = (walk.block_no - 1) * GMEM_BLOCK_PAGES + off;
		return 1;
	}
	return 0;
}

void gmem_page_poison(struct gmem_pages *pages, u64 index)
{
	struct gmem_block *block;

	if (index >= pages->npages)
		return;
	block = block_make(pages, index / GMEM_BLOCK_PAGES);
	if (!block)
		return;
	state_set(block, index % GMEM_BLOCK_PAGES, GMEM_PAGE_POISONED);
	atomic_store_relaxed_u32(&block->order, 0);
	gigantic_break(pages, index / GMEM_BLOCK_PAGES);
}
