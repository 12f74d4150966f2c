/* What happens to ranges of pages of a guest_memfd inode: told, converted, punched, found. */
#include "src/gmem/block.h"

#define GMEM_PAGE_ALL 0xffu

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

/* False: the range is empty, or past the end of the file. No file is empty. */
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

	part->block = gmem_block_at(
	    radix_next(&walk->pages->root, walk->pages->height, &walk->block_no, last));
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

/* Is @off the first of GMEM_WORD_PAGES pages of the part that have @state, at consecutive frames?
 * Theirs are @states. */
static bool whole_word_has(const struct block_part *part, u32 off, u64 states, u32 state)
{
	return off % GMEM_WORD_PAGES == 0 && part->end - off >= GMEM_WORD_PAGES &&
	       (states & (state | GMEM_PAGE_SCATTERED) * GMEM_EVERY_PAGE) ==
		   state * GMEM_EVERY_PAGE;
}

/*
 * Tell of the frames of the pages with @state in the part, in runs. Each word is looked at once:
 * where a first page is made between two looks, the others would be passed over with it.
 */
static void part_tell(const struct block_part *part, u32 state, const struct gmem_frames *frames)
{
	struct frame_run run = {.frames = frames};
	u32 off = part->first;

	while (off < part->end) {
		u64 states = gmem_block_states(part->block, off);
		u32 seen = states & 0xff;
		u32 npages = whole_word_has(part, off, states, state) ? GMEM_WORD_PAGES : 1;

		if (seen & state)
			run_add(&run, gmem_block_pfn(part->block, off, seen), npages);
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

	CHECK(part->first < part->end && part->end <= GMEM_BLOCK_PAGES);
	while (off < part->end) {
		u64 *word = &part->block->states[off / GMEM_WORD_PAGES];

		if (off % GMEM_WORD_PAGES == 0 && part->end - off >= GMEM_WORD_PAGES) {
			atomic_fetch_and_u64(word, ~(bits * GMEM_EVERY_PAGE));
			off += GMEM_WORD_PAGES;
			continue;
		}
		gmem_block_clear(part->block, off, bits);
		off++;
	}
	CHECK(!(gmem_block_state(part->block, part->first) & bits & ~GMEM_PAGE_POISONED));
}

/* Under punch_lock exclusive: the pages lose @bits. @frames, if any, hears of those PREPARED. */
static void pages_lose(struct pages_walk *walk, u32 bits, const struct gmem_frames *frames)
{
	struct block_part part;

	CHECK(lock_is_held(&walk->pages->punch_lock, LOCK_EXCLUSIVE));
	CHECK(walk->end <= walk->pages->npages);
	while (walk_next(walk, &part)) {
		if (frames)
			part_tell(&part, GMEM_PAGE_PREPARED, frames);
		if (bits & GMEM_PAGE_EXISTS)
			gmem_block_break(walk->pages, part.block, walk->block_no - 1);
		part_clear(&part, bits);
	}
}

void gmem_pages_make_shared(struct gmem_pages *pages, u64 first, u64 npages,
			    const struct gmem_frames *frames)
{
	struct pages_walk walk;

	if (!walk_begin(&walk, pages, first, npages))
		return;
	rwlock_write_lock(&pages->punch_lock);
	pages_lose(&walk, GMEM_PAGE_PREPARED, frames);
	rwlock_write_unlock(&pages->punch_lock);
}

/* Pages from @first up to @end lose what they are; with @whole their frames, too. */
static void punch_run(struct gmem_pages *pages, u64 first, u64 end,
		      const struct gmem_frames *reclaim, bool whole)
{
	struct pages_walk walk;

	CHECK(first <= end && end <= pages->npages);
	if (!walk_begin(&walk, pages, first, end - first))
		return;
	pages_lose(&walk, whole ? GMEM_PAGE_ALL : GMEM_PAGE_UP_TO_DATE | GMEM_PAGE_PREPARED,
		   reclaim);
	if (whole)
		gmem_lost_forget(pages, first, end - first);
}

/* A part of a huge page stays where it is, zeroed; and lost, where it was. */
static void punch_huge(struct gmem_pages *pages, const struct pages_walk *range,
		       const struct gmem_frames *reclaim)
{
	u64 unit = UINT64_C(1) << pages->huge_order;
	u64 whole = min_u64(round_up_u64(range->first, unit), range->end);
	u64 whole_end = max_u64(round_down_u64(range->end, unit), whole);

	punch_run(pages, range->first, whole, reclaim, false);
	punch_run(pages, whole, whole_end, reclaim, true);
	punch_run(pages, whole_end, range->end, reclaim, false);
}

void gmem_pages_punch(struct gmem_pages *pages, u64 first, u64 npages,
		      const struct gmem_frames *reclaim)
{
	struct pages_walk walk;

	if (!walk_begin(&walk, pages, first, npages))
		return;
	rwlock_write_lock(&pages->punch_lock);
	if (pages->huge_order) {
		punch_huge(pages, &walk, reclaim);
	} else {
		pages_lose(&walk, GMEM_PAGE_ALL, reclaim);
		gmem_lost_forget(pages, first, walk.end - first);
	}
	pages->host->store_punch(pages->host_ctx, pages->store, first, walk.end - first);
	rwlock_write_unlock(&pages->punch_lock);
}

/* The frames of its pages are gone; what the pages are is not. */
static void forget_frames(struct gmem_pages *pages, u64 first, u64 npages)
{
	struct pages_walk walk;
	struct block_part part;

	CHECK(is_aligned_u64(first | npages, GMEM_BLOCK_PAGES));
	(void)walk_begin(&walk, pages, first, npages);
	while (walk_next(&walk, &part)) {
		gmem_block_break(pages, part.block, walk.block_no - 1);
		part_clear(&part, GMEM_PAGE_EXISTS | GMEM_PAGE_SCATTERED);
		atomic_store_relaxed_u64(&part.block->base, 0);
	}
}

int gmem_pages_reshape(struct gmem_pages *pages, u64 first, int whole,
		       const struct gmem_frames *frames)
{
	u64 npages = UINT64_C(1) << pages->huge_order;
	struct pages_walk walk;
	int error;

	CHECK(pages->huge_order && is_aligned_u64(first, npages) && first < pages->npages);
	if (!pages->host->store_reshape)
		return 0;
	rwlock_write_lock(&pages->punch_lock);
	(void)walk_begin(&walk, pages, first, npages);
	pages_lose(&walk, GMEM_PAGE_PREPARED, frames);
	error = pages->host->store_reshape(pages->host_ctx, pages->store, first, whole);
	if (!error)
		forget_frames(pages, first, npages);
	rwlock_write_unlock(&pages->punch_lock);
	return error;
}

/* Under punch_lock exclusive: no page is made or filled meanwhile. */
int gmem_pages_clear(struct gmem_pages *pages, u64 first, u64 npages)
{
	int error;

	CHECK(first + npages <= pages->npages);
	rwlock_write_lock(&pages->punch_lock);
	error = pages->host->store_clear(pages->host_ctx, pages->store, first, npages);
	rwlock_write_unlock(&pages->punch_lock);
	return error;
}

/* The page of the block at frame @pfn, or GMEM_BLOCK_PAGES. */
static u32 block_find_frame(const struct gmem_block *block, pfn_t pfn)
{
	u32 off = 0;

	while (off < GMEM_BLOCK_PAGES) {
		u32 state = gmem_block_state(block, off);

		if ((state & GMEM_PAGE_EXISTS) && gmem_block_pfn(block, off, state).v == pfn.v)
			break;
		off++;
	}
	return off;
}

int gmem_pages_find(const struct gmem_pages *pages, pfn_t pfn, u64 *index)
{
	struct pages_walk walk;
	struct block_part part;

	(void)walk_begin(&walk, pages, 0, pages->npages);
	while (walk_next(&walk, &part)) {
		u64 base = atomic_load_relaxed_u64(&part.block->base) & GMEM_BASE_MASK;
		u32 off = GMEM_BLOCK_PAGES;

		if (pfn.v - base < GMEM_BLOCK_PAGES || atomic_load_relaxed_ptr(&part.block->list))
			off = block_find_frame(part.block, pfn);
		if (off == GMEM_BLOCK_PAGES)
			continue;
		*index = (walk.block_no - 1) * GMEM_BLOCK_PAGES + off;
		return 1;
	}
	return 0;
}
