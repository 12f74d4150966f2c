/* The pages of the simulated machine's guest_memfds, and its pool of huge pages. */
#include <errno.h>
#include <string.h>

#include "hosts/sim/frames.h"
#include "hosts/sim/sched.h"

#define SIM_BLOCK_ORDER 9u
#define SIM_GIGANTIC_ORDER (2 * SIM_BLOCK_ORDER)

enum store_mark {
	STORE_SPLIT = 1u << 0, /* the huge page that begins here is */
	STORE_ZEROS = 1u << 1, /* a page of a split one: without a frame, and zeros to its owner */
};

/* Pages of a guest_memfd: frame number + 1, or 0. */
struct sim_store {
	uint64_t npages;
	uint64_t size_bytes; /* of this */
	uint64_t limit;	     /* pages that fit in @frames */
	unsigned int order;  /* of its pages, of the pool; 0: it has none of these */
	uint8_t *marks;	     /* behind @views: enum store_mark of each page */
	uint32_t *rows;	     /* behind @frames: of the pool; the first frame of each huge page */
	uint8_t *views;	     /* behind @rows: enum sim_view of each page */
	uint32_t frames[];
};

int sim_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	const struct sim_host *host = ctx;
	uint64_t frames_bytes = host->page_count * sizeof(uint32_t);
	uint64_t rows_bytes = (host->page_count / SIM_BLOCK + 1) * sizeof(uint32_t);
	uint64_t own_bytes =
	    sizeof(struct sim_store) + frames_bytes + rows_bytes + 2 * host->page_count;
	struct sim_store *made = sim_alloc(ctx, own_bytes);

	(void)cookie;
	if (!made)
		return -ENOMEM;
	made->npages = size_bytes / QUIRE_PAGE_SIZE;
	made->size_bytes = own_bytes;
	made->limit = host->page_count;
	made->rows = made->frames + host->page_count;
	made->views = (uint8_t *)made->rows + rows_bytes;
	made->marks = made->views + host->page_count;
	*store = made;
	return 0;
}

/* Pages of the store's pool, all of them. */
static uint32_t store_pool_pages(const struct sim_store *pages)
{
	return pages->order ? (uint32_t)(pages->npages >> pages->order) : 0;
}

static unsigned int pool_of(unsigned int order)
{
	return order == SIM_GIGANTIC_ORDER;
}

static void rows_put(struct sim_host *host, const struct sim_store *pages, uint64_t count)
{
	while (count--)
		sim_frames_put(host, pages->rows[count], 1u << pages->order);
}

/* What is reserved is there: its frames are kept from the beginning. */
static bool rows_get(struct sim_host *host, struct sim_store *pages)
{
	for (uint64_t i = 0; i < store_pool_pages(pages); i++) {
		pages->rows[i] = sim_frames_row(host, 1u << pages->order, SIM_POISON);
		if (pages->rows[i] == SIM_NO_FRAME) {
			rows_put(host, pages, i);
			return false;
		}
	}
	return true;
}

int sim_store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			  void **store)
{
	struct sim_host *host = ctx;
	uint64_t wanted = size_bytes / QUIRE_PAGE_SIZE >> order;
	unsigned int pool = pool_of(order);
	struct sim_store *made;
	int error;

	if (!host->pool[pool])
		return -EINVAL;
	if (wanted > host->pool[pool] - host->pool_reserved[pool])
		return -ENOMEM;
	error = sim_store_create(ctx, cookie, size_bytes, store);
	if (error)
		return error;
	made = *store;
	made->order = order;
	if (!rows_get(host, made)) {
		sim_free(ctx, made, made->size_bytes);
		return -ENOMEM;
	}
	host->pool_reserved[pool] += (uint32_t)wanted;
	return 0;
}

static bool store_is_small(const struct sim_store *pages, uint64_t index)
{
	return pages->order && (pages->marks[index >> pages->order << pages->order] & STORE_SPLIT);
}

uint32_t sim_store_frame(const void *store, uint64_t index)
{
	const struct sim_store *pages = store;

	return index < pages->limit && pages->frames[index] ? pages->frames[index] - 1
							    : SIM_NO_FRAME;
}

/* The frames of the huge page that begins at @index, handed out, or back in the reserve. */
static uint32_t row_of(const struct sim_store *pages, uint64_t index)
{
	return pages->rows[index >> pages->order];
}

static void row_rest(struct sim_host *host, const struct sim_store *pages, uint64_t index)
{
	sim_frames_fill(host, row_of(pages, index), 1u << pages->order, SIM_POISON);
}

/* All of it goes, small or not. */
static void punch_unit(struct sim_host *host, struct sim_store *pages, uint64_t index)
{
	bool is_small = store_is_small(pages, index);
	struct frame_run run = {0};

	if (!is_small && pages->frames[index])
		row_rest(host, pages, index);
	for (uint64_t i = index; i < index + (UINT64_C(1) << pages->order); i++) {
		if (is_small && pages->frames[i])
			sim_run_add(host, &run, pages->frames[i] - 1);
		pages->frames[i] = 0;
		pages->marks[i] &= (uint8_t)~STORE_ZEROS;
	}
	sim_frames_put(host, run.first, run.count);
}

/* A part of a huge page stays, split or not, and is as a page that was handed out anew. */
static void punch_part(struct sim_host *host, const struct sim_store *pages, uint64_t index)
{
	if (!pages->frames[index])
		return;
	sim_frames_fill(host, pages->frames[index] - 1, 1, 0);
	host->frames[pages->frames[index] - 1].generation++;
}

static void punch_huge(struct sim_host *host, struct sim_store *pages, uint64_t index, uint64_t end)
{
	uint64_t unit = UINT64_C(1) << pages->order;

	while (index < end && index < pages->limit) {
		if (index % unit || end - index < unit) {
			punch_part(host, pages, index);
			index++;
			continue;
		}
		punch_unit(host, pages, index);
		index += unit;
	}
}

void sim_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	struct frame_run run = {0};

	if (pages->order) {
		punch_huge(host, pages, index, index + npages);
		return;
	}
	for (uint64_t i = index; i < index + npages && i < pages->limit; i++) {
		if (pages->frames[i])
			sim_run_add(host, &run, pages->frames[i] - 1);
		pages->frames[i] = 0;
	}
	sim_frames_put(host, run.first, run.count);
}

void sim_store_destroy(void *ctx, void *store)
{
	struct sim_store *pages = store;

	sim_store_punch(ctx, store, 0, pages->npages);
	rows_put(ctx, pages, store_pool_pages(pages));
	((struct sim_host *)ctx)->pool_reserved[pool_of(pages->order)] -= store_pool_pages(pages);
	sim_free(ctx, store, pages->size_bytes);
}

/* A row of frames for the @count pages around @index, none of which is there yet. What a fresh
 * page holds is unspecified: the library zeroes it. */
static bool store_get_row(struct sim_host *host, struct sim_store *pages, uint64_t index,
			  uint32_t count)
{
	uint64_t first = index & ~(uint64_t)(count - 1);
	uint32_t row;

	if (first + count > pages->npages || first + count > pages->limit)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (pages->frames[first + i])
			return false;
	row = sim_alloc_fails(host) ? SIM_NO_FRAME : sim_frames_row(host, count, 0xa5);
	if (row == SIM_NO_FRAME)
		return false;
	for (uint32_t i = 0; i < count; i++)
		pages->frames[first + i] = row + i + 1;
	return true;
}

/* The huge page around @index, which is not there yet. */
static void store_get_reserved(struct sim_host *host, struct sim_store *pages, uint64_t index)
{
	uint64_t first = index >> pages->order << pages->order;
	uint32_t row = row_of(pages, first), count = 1u << pages->order;

	sim_frames_take(host, row, count, 0xa5);
	for (uint32_t i = 0; i < count; i++)
		pages->frames[first + i] = row + i + 1;
}

/* The order of the row that was made for @index, 0 where none could be. */
static unsigned int store_get_largest(struct sim_host *host, struct sim_store *pages,
				      uint64_t index, unsigned int max)
{
	if (max >= SIM_GIGANTIC_ORDER && store_get_row(host, pages, index, SIM_GIGANTIC))
		return SIM_GIGANTIC_ORDER;
	if (max >= SIM_BLOCK_ORDER && store_get_row(host, pages, index, SIM_BLOCK))
		return SIM_BLOCK_ORDER;
	return 0;
}

/* What comes together with the page, up to 2^*@order. */
static void store_get_unit(struct sim_host *host, struct sim_store *pages, uint64_t index,
			   unsigned int *order)
{
	if (store_is_small(pages, index)) {
		*order = 0;
	} else if (!pages->order) {
		*order = store_get_largest(host, pages, index, *order);
	} else {
		if (!pages->frames[index])
			store_get_reserved(host, pages, index);
		if (*order > pages->order)
			*order = pages->order;
	}
}

int sim_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	struct sim_frame *frame;

	if (index >= pages->limit)
		return -ENOMEM;
	store_get_unit(host, pages, index, order);
	if (!pages->frames[index]) {
		uint8_t fill = pages->marks[index] & STORE_ZEROS ? 0 : 0xa5;
		uint32_t got = sim_alloc_fails(host) ? SIM_NO_FRAME : sim_frame_alloc(host, fill);

		if (got == SIM_NO_FRAME)
			return -ENOMEM;
		pages->frames[index] = got + 1;
		pages->marks[index] &= (uint8_t)~STORE_ZEROS;
	}
	frame = &host->frames[pages->frames[index] - 1];
	pfn->v = (uint64_t)(uintptr_t)frame->bytes >> QUIRE_PAGE_SHIFT;
	return frame->poisoned ? -EHWPOISON : 0;
}

int sim_frame_lost(void *ctx, pfn_t pfn)
{
	const struct sim_host *host = ctx;
	uint64_t frame = pfn.v - ((uintptr_t)host->memory >> QUIRE_PAGE_SHIFT);

	return frame < host->frame_count && host->frames[frame].poisoned;
}

static void tell_cleared(struct sim_host *host, uint64_t index, uint32_t frame)
{
	if (host->watcher.cleared)
		host->watcher.cleared(host->watcher.ctx, index, frame);
}

int sim_store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	const struct sim_store *pages = store;

	while (npages) {
		uint32_t first = pages->frames[index] - 1, count = 1;

		while (count < npages && pages->frames[index + count] == first + count + 1)
			count++;
		sim_frames_fill(host, first, count, 0);
		for (uint32_t i = 0; i < count && host->watcher.cleared; i++)
			tell_cleared(host, index + i, first + i);
		index += count;
		npages -= count;
	}
	return 0;
}

enum sim_view sim_store_view(const void *store, uint64_t index)
{
	const struct sim_store *pages = store;

	return index < pages->limit ? (enum sim_view)pages->views[index] : SIM_VIEW_UNTOLD;
}

int sim_store_show(void *ctx, void *store, uint64_t index, uint64_t npages, int shown)
{
	struct sim_store *pages = store;

	sched_yield_point();
	if (sim_alloc_fails(ctx))
		return -ENOMEM;
	for (uint64_t i = index; i < index + npages && i < pages->limit; i++)
		pages->views[i] = shown ? SIM_VIEW_SHOWN : SIM_VIEW_HIDDEN;
	return 0;
}

int sim_store_clear(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	const struct sim_store *pages = store;

	for (uint64_t i = index; i < index + npages && i < pages->limit; i++) {
		if (!pages->frames[i])
			continue;
		sim_frames_fill(host, pages->frames[i] - 1, 1, 0);
		tell_cleared(host, i, pages->frames[i] - 1);
	}
	return 0;
}

/* Has any page of the unit a frame, or been used? */
static bool unit_is_used(const struct sim_store *pages, uint64_t index)
{
	for (uint64_t i = index; i < index + (UINT64_C(1) << pages->order); i++)
		if (i < pages->limit && (pages->frames[i] || (pages->marks[i] & STORE_ZEROS)))
			return true;
	return false;
}

static void move_bytes(struct sim_host *host, uint32_t from, uint32_t to)
{
	memcpy(host->frames[to].bytes, host->frames[from].bytes, SIM_FRAME_BYTES);
	if (host->watcher.copied)
		host->watcher.copied(host->watcher.ctx, 0, from, to);
}

static bool is_zero(const struct sim_host *host, uint32_t frame)
{
	static const uint8_t zeros[SIM_FRAME_BYTES];

	return !memcmp(host->frames[frame].bytes, zeros, sizeof(zeros));
}

/* Pages of zeros get no frame: of 1 GiB the machine has not so many. */
static int unit_split(struct sim_host *host, struct sim_store *pages, uint64_t index)
{
	uint32_t count = 1u << pages->order, row = pages->frames[index] - 1, i, to;

	for (i = 0; i < count; i++) {
		if (is_zero(host, row + i)) {
			pages->frames[index + i] = 0;
			pages->marks[index + i] |= STORE_ZEROS;
			continue;
		}
		to = sim_frame_alloc(host, 0);
		if (to == SIM_NO_FRAME)
			break;
		move_bytes(host, row + i, to);
		pages->frames[index + i] = to + 1;
	}
	if (i == count) {
		row_rest(host, pages, index);
		return 0;
	}
	while (i--) {
		if (pages->frames[index + i])
			sim_frames_put(host, pages->frames[index + i] - 1, 1);
		pages->frames[index + i] = row + i + 1;
		pages->marks[index + i] &= (uint8_t)~STORE_ZEROS;
	}
	return -ENOMEM;
}

static void unit_join(struct sim_host *host, struct sim_store *pages, uint64_t index)
{
	uint32_t count = 1u << pages->order, row = row_of(pages, index);

	sim_frames_take(host, row, count, 0);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t *at = &pages->frames[index + i];

		if (*at) {
			move_bytes(host, *at - 1, row + i);
			sim_frames_put(host, *at - 1, 1);
		}
		*at = row + i + 1;
		pages->marks[index + i] &= (uint8_t)~STORE_ZEROS;
	}
}

/* The bytes move to other frames, and those they leave show foreign bytes. */
int sim_store_reshape(void *ctx, void *store, uint64_t index, int whole)
{
	struct sim_store *pages = store;
	int error = 0;

	sched_yield_point();
	if (store_is_small(pages, index) == !whole)
		return 0;
	if (unit_is_used(pages, index)) {
		if (sim_alloc_fails(ctx))
			return -ENOMEM;
		if (whole)
			unit_join(ctx, pages, index);
		else
			error = unit_split(ctx, pages, index);
	}
	if (!error)
		pages->marks[index] ^= STORE_SPLIT;
	return error;
}
