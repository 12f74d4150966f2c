/* The steps that bring a page of a guest_memfd inode into use: made, zeroed or filled, prepared. */
#include "src/gmem/pages.h"

#include <errno.h>

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/gmem/block.h"

void gmem_pages_init(struct gmem_pages *pages, const struct quire_host_ops *host, void *host_ctx,
		     u64 npages)
{
	CHECK(npages && !pages->height);
	CHECK(!pages->root);
	pages->host = host;
	pages->host_ctx = host_ctx;
	pages->npages = npages;
	pages->height = gmem_blocks_height(npages);
	rwlock_init(&pages->punch_lock, RANK_GMEM_PUNCH);
	for (u32 i = 0; i < GMEM_PAGE_LOCKS; i++)
		mutex_init(&pages->locks[i].mutex, RANK_GMEM_PAGE);
}

void gmem_pages_destroy(struct gmem_pages *pages)
{
	gmem_blocks_free(pages);
}

/* A page at work: its block, and the lock that is held. */
struct page_work {
	struct gmem_pages *pages;
	struct gmem_block *block;
	struct mutex *lock;
	u64 index;
	u32 off;
};

/* Order of the unit that store_get() gave, as this file keeps it: a page or a whole block. */
static bool is_whole_block(const struct page_work *work, unsigned int order)
{
	u64 first = round_down_u64(work->index, GMEM_BLOCK_PAGES);

	return order >= GMEM_BLOCK_ORDER && first + GMEM_BLOCK_PAGES <= work->pages->npages;
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
		return gmem_block_add_page(pages, work->block, work->off, *pfn);
	return gmem_block_add_unit(pages, work->block, (pfn_t){pfn->v - work->off});
}

static int page_make_exist(struct page_work *work)
{
	unsigned int order = work->pages->max_order ? GMEM_BLOCK_ORDER : 0;
	pfn_t pfn;
	int error = page_get(work, &order, &pfn);

	if (!error && order)
		gmem_gigantic_join(work->pages, work->index);
	return error;
}

/* May the 1 GiB around @index become one unit: inside the file, and nothing of it there yet? */
static bool gigantic_is_possible(const struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GMEM_GIGANTIC_PAGES);

	return pages->max_order >= GMEM_GIGANTIC_ORDER &&
	       first + GMEM_GIGANTIC_PAGES <= pages->npages &&
	       !gmem_unit_any(pages, first, GMEM_GIGANTIC_ORDER,
			      GMEM_PAGE_EXISTS | GMEM_PAGE_POISONED);
}

/* The page at @index is placed, at @pfn, and its block: place the others. */
static void gigantic_place(struct gmem_pages *pages, u64 index, pfn_t pfn)
{
	u64 first = round_down_u64(index, GMEM_GIGANTIC_PAGES) / GMEM_BLOCK_PAGES;

	pfn.v -= index % GMEM_GIGANTIC_PAGES;
	for (u32 i = 0; i < GMEM_GIGANTIC_BLOCKS; i++, pfn.v += GMEM_BLOCK_PAGES)
		if (gmem_block_add_unit(pages, gmem_block_find(pages, first + i), pfn))
			return;
	gmem_gigantic_join(pages, index);
}

/* No page of the block exists: frames it once had need not be remembered. */
static struct gmem_block *block_make_anew(struct gmem_pages *pages, u64 block_no)
{
	struct gmem_block *block = gmem_block_make(pages, block_no);

	CHECK(lock_is_held(&pages->punch_lock, LOCK_EXCLUSIVE));
	CHECK(!block || !gmem_block_any_has(block, GMEM_PAGE_EXISTS));
	if (block)
		atomic_store_relaxed_u64(&block->base, 0);
	return block;
}

/* Under punch_lock exclusive: no other thread works at any page. */
static void gigantic_get(struct gmem_pages *pages, u64 index)
{
	u64 first = round_down_u64(index, GMEM_GIGANTIC_PAGES) / GMEM_BLOCK_PAGES;
	struct page_work work = {
	    .pages = pages,
	    .index = index,
	    .off = index % GMEM_BLOCK_PAGES,
	};
	unsigned int order = GMEM_GIGANTIC_ORDER;
	pfn_t pfn;

	for (u32 i = 0; i < GMEM_GIGANTIC_BLOCKS; i++)
		if (!block_make_anew(pages, first + i))
			return;
	work.block = gmem_block_find(pages, index / GMEM_BLOCK_PAGES);
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
static int work_prepare(struct page_work *work, struct gmem_pages *pages, u64 index)
{
	u64 unit = pages->max_order ? index / GMEM_BLOCK_PAGES : index;

	gigantic_make_exist(pages, index);
	work->pages = pages;
	work->index = index;
	work->off = index % GMEM_BLOCK_PAGES;
	work->block = gmem_block_make(pages, index / GMEM_BLOCK_PAGES);
	if (!work->block)
		return -ENOMEM;
	work->lock = &pages->locks[unit % GMEM_PAGE_LOCKS].mutex;
	return 0;
}

static void work_begin(struct page_work *work) ACQUIRES_SHARED(&work->pages->punch_lock)
    ACQUIRES(work->lock)
{
	rwlock_read_lock(&work->pages->punch_lock);
	mutex_lock(work->lock);
}

static void work_end(struct page_work *work) RELEASES_SHARED(&work->pages->punch_lock)
    RELEASES(work->lock)
{
	mutex_unlock(work->lock);
	rwlock_read_unlock(&work->pages->punch_lock);
}

/* The part of the block that is brought into use together: [*@first, *@end). */
static void work_unit(const struct page_work *work, u32 *first, u32 *end)
{
	bool whole = gmem_block_is_unit(work->block);

	*first = whole ? 0 : work->off;
	*end = whole ? GMEM_BLOCK_PAGES : work->off + 1;
}

static bool is_fresh(const struct gmem_block *block, u32 off)
{
	return !(gmem_block_state(block, off) & GMEM_PAGE_UP_TO_DATE);
}

/* A block that has just become one unit may have pages that were never used. */
static bool unit_is_fresh(const struct page_work *work)
{
	if (gmem_block_is_unit(work->block))
		return !gmem_block_all_have(work->block, GMEM_PAGE_UP_TO_DATE);
	return is_fresh(work->block, work->off);
}

/* Zero what was never used, in runs. */
static int page_make_up_to_date(struct page_work *work)
{
	const struct gmem_pages *pages = work->pages;
	u64 block_index = work->index - work->off;
	u32 at, end;

	CHECK(lock_is_held(work->lock, LOCK_EXCLUSIVE));
	CHECK(gmem_block_state(work->block, work->off) & GMEM_PAGE_EXISTS);
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
			gmem_block_set(work->block, at, GMEM_PAGE_UP_TO_DATE);
	}
	return 0;
}

/* Is the page, or with @order the block, PREPARED and still private? */
static bool is_prepared(const struct page_work *work, const struct gmem_prepare *prepare, u32 off,
			unsigned int order)
{
	u32 state = gmem_block_state(work->block, off);

	if (order ? !gmem_block_all_have(work->block, GMEM_PAGE_PREPARED)
		  : !(state & GMEM_PAGE_PREPARED))
		return false;
	return !prepare->is_private ||
	       prepare->is_private(prepare->ctx, work->index - work->off + off,
				   gmem_block_pfn(work->block, off, state), order);
}

static int prepare_one(struct page_work *work, const struct gmem_prepare *prepare, u32 off)
{
	u32 state = gmem_block_state(work->block, off);
	int error;

	if (is_prepared(work, prepare, off, 0))
		return 0;
	error = prepare->make_private(prepare->ctx, work->index - work->off + off,
				      gmem_block_pfn(work->block, off, state), 0);
	CHECK(lock_is_held(work->lock, LOCK_EXCLUSIVE));
	if (!error)
		gmem_block_set(work->block, off, GMEM_PAGE_PREPARED);
	return error;
}

/* A whole block at once if none of it is prepared yet, else page by page. */
static int page_make_private(struct page_work *work, const struct gmem_prepare *prepare)
{
	struct gmem_block *block = work->block;
	u32 first, end;
	int error;

	work_unit(work, &first, &end);
	if (prepare->order < GMEM_BLOCK_ORDER || end - first == 1)
		return prepare_one(work, prepare, work->off);
	if (gmem_block_any_has(block, GMEM_PAGE_PREPARED)) {
		for (error = 0; !error && first < end; first++)
			error = prepare_one(work, prepare, first);
		return error;
	}
	error = prepare->make_private(prepare->ctx, work->index - work->off,
				      gmem_block_pfn(block, 0, gmem_block_state(block, 0)),
				      GMEM_BLOCK_ORDER);
	for (; !error && first < end; first++)
		gmem_block_set(block, first, GMEM_PAGE_PREPARED);
	return error;
}

static bool needs_prepare(const struct page_work *work, const struct gmem_prepare *prepare)
{
	if (prepare->order == GMEM_BLOCK_ORDER && gmem_block_is_unit(work->block))
		return !is_prepared(work, prepare, 0, GMEM_BLOCK_ORDER);
	return !is_prepared(work, prepare, work->off, 0);
}

/* What was private for a gfn that is gone, or is shared now. */
static int page_make_shared(struct page_work *work, const struct gmem_prepare *prepare)
{
	u32 at = work->off, end = at + 1;
	int error = 0;

	if (prepare->order == GMEM_BLOCK_ORDER)
		work_unit(work, &at, &end);
	for (; !error && at < end; at++) {
		u32 state = gmem_block_state(work->block, at);

		CHECK(lock_is_held(work->lock, LOCK_EXCLUSIVE));
		if (!(state & GMEM_PAGE_PREPARED))
			continue;
		error = prepare->make_shared(prepare->ctx, work->index - work->off + at,
					     gmem_block_pfn(work->block, at, state));
		if (!error)
			gmem_block_clear(work->block, at, GMEM_PAGE_PREPARED);
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
	u32 state = gmem_block_state(work->block, work->off);

	if (state & GMEM_PAGE_POISONED)
		return -EHWPOISON;
	return state & GMEM_PAGE_EXISTS ? 0 : page_make_exist(work);
}

int gmem_page_create(struct gmem_pages *pages, u64 index, struct gmem_page *page)
{
	struct page_work work;
	int error = work_prepare(&work, pages, index);

	if (error)
		return error;
	work_begin(&work);
	error = work_result(&work, page_exist(&work), page);
	work_end(&work);
	return error;
}

int gmem_page_use(struct gmem_pages *pages, u64 index, const struct gmem_prepare *prepare,
		  struct gmem_page *page)
{
	struct page_work work;
	int error = work_prepare(&work, pages, index);

	if (error)
		return error;
	work_begin(&work);
	error = page_exist(&work);
	if (!error && unit_is_fresh(&work))
		error = page_make_up_to_date(&work);
	if (!error)
		error = page_prepare(&work, prepare);
	error = work_result(&work, error, page);
	work_end(&work);
	return error;
}

/* A whole block at once, where it is one unit and none of it is private yet. */
static unsigned int fill_order(const struct page_work *work, const struct gmem_filler *filler)
{
	bool whole = filler->max_order >= GMEM_BLOCK_ORDER && !work->off &&
		     gmem_block_is_unit(work->block) &&
		     !gmem_block_any_has(work->block, GMEM_PAGE_PREPARED);

	return whole ? GMEM_BLOCK_ORDER : 0;
}

/* Pages [@first, @end) of the unit at @pfn were made private for nothing. */
static void fill_undo(const struct page_work *work, const struct gmem_prepare *prepare, pfn_t pfn,
		      u64 first, u64 end)
{
	for (; first < end; first++)
		(void)prepare->make_shared(prepare->ctx, work->index + first,
					   (pfn_t){pfn.v + first});
}

/*
 * Private first: what is filled in must not be left in a page that was refused. The state says so
 * last: a lookup without a lock finds the page when it is filled.
 */
static s64 fill_unit(struct page_work *work, const struct gmem_prepare *prepare,
		     const struct gmem_filler *filler)
{
	u32 bits = GMEM_PAGE_UP_TO_DATE | (prepare ? GMEM_PAGE_PREPARED : 0);
	unsigned int order = fill_order(work, filler);
	u64 end = UINT64_C(1) << order, filled;
	pfn_t pfn =
	    gmem_block_pfn(work->block, work->off, gmem_block_state(work->block, work->off));
	s64 done = prepare ? prepare->make_private(prepare->ctx, work->index, pfn, order) : 0;

	if (done)
		return done;
	for (u32 i = 0; MUTANT(fill_early) && i < end; i++)
		gmem_block_set(work->block, work->off + i, bits);
	done = filler->fill(filler->ctx, work->index, pfn, order);
	filled = done > 0 ? min_u64((u64)done, end) : 0;
	for (u32 i = 0; i < filled; i++)
		gmem_block_set(work->block, work->off + i, bits);
	if (prepare)
		fill_undo(work, prepare, pfn, filled, end);
	return done > 0 ? (s64)filled : done;
}

s64 gmem_page_fill(struct gmem_pages *pages, u64 index, const struct gmem_prepare *prepare,
		   const struct gmem_filler *filler)
{
	struct page_work work;
	s64 done = work_prepare(&work, pages, index);

	if (done)
		return done;
	work_begin(&work);
	done = page_exist(&work);
	if (!done)
		done = fill_unit(&work, prepare, filler);
	work_end(&work);
	return done;
}
