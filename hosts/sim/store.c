/* The pages of the simulated machine's guest_memfds, and its pool of huge pages. */
#include <errno.h>
#include <string.h>

#include "hosts/sim/frames.h"
#include "hosts/sim/sched.h"

#define SIM_BLOCK_ORDER 9u
#define SIM_GIGANTIC_ORDER (2 * SIM_BLOCK_ORDER)

/* Pages of a guest_memfd: frame number + 1, or 0. */
struct sim_store {
	uint64_t npages;
	uint64_t size_bytes; /* of this */
	uint64_t limit;	     /* pages that fit in @frames */
	unsigned int order;  /* of its pages, of the pool; 0: it has none of these */
	uint8_t *small;	     /* behind @views: is the huge page that begins here split? */
	uint8_t *views;	     /* behind @frames: enum sim_view of each page */
	uint32_t frames[];
};

int sim_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	const struct sim_host *host = ctx;
	uint64_t frames_bytes = host->page_count * sizeof(uint32_t);
	uint64_t own_bytes = sizeof(struct sim_store) + frames_bytes + 2 * host->page_count;
	struct sim_store *made = sim_alloc(ctx, own_bytes);

	(void)cookie;
	if (!made)
		return -ENOMEM;
	made->npages = size_bytes / QUIRE_PAGE_SIZE;
	made->size_bytes = own_bytes;
	made->limit = host->page_count;
	made->views = (uint8_t *)made->frames + frames_bytes;
	made->small = made->views + host->page_count;
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

int sim_store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			  void **store)
{
	struct sim_host *host = ctx;
	uint64_t wanted = size_bytes / QUIRE_PAGE_SIZE >> order;
	unsigned int pool = pool_of(order);
	int error;

	if (!host->pool[pool])
		return -EINVAL;
	if (wanted > host->pool[pool] - host->pool_reserved[pool])
		return -ENOMEM;
	error = sim_store_create(ctx, cookie, size_bytes, store);
	if (error)
		return error;
	host->pool_reserved[pool] += (uint32_t)wanted;
	((struct sim_store *)*store)->order = order;
	return 0;
}

static bool store_is_small(const struct sim_store *pages, uint64_t index)
{
	return pages->order && pages->small[index >> pages->order << pages->order];
}

uint32_t sim_store_frame(const void *store, uint64_t index)
{
	const struct sim_store *pages = store;

	return index < pages->limit && pages->frames[index] ? pages->frames[index] - 1
							    : SIM_NO_FRAME;
}

void sim_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	uint64_t unit = UINT64_C(1) << pages->order, end = index + npages;
	uint64_t whole = (index + unit - 1) & -unit, whole_end = end & -unit;
	struct frame_run run = {0};

	for (uint64_t i = index; i < end && i < pages->limit; i++) {
		/* Of a huge page a part stays, split or not. */
		if (i < whole || i >= whole_end) {
			if (pages->frames[i])
				sim_frames_fill(host, pages->frames[i] - 1, 1, 0);
			continue;
		}
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
	/* What is reserved is there. */
	row = !pages->order && sim_alloc_fails(host) ? SIM_NO_FRAME
						     : sim_frames_row(host, count, 0xa5);
	if (row == SIM_NO_FRAME)
		return false;
	for (uint32_t i = 0; i < count; i++)
		pages->frames[first + i] = row + i + 1;
	return true;
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
static int store_get_unit(struct sim_host *host, struct sim_store *pages, uint64_t index,
			  unsigned int *order)
{
	if (store_is_small(pages, index)) {
		*order = 0;
	} else if (!pages->order) {
		*order = store_get_largest(host, pages, index, *order);
	} else {
		if (!pages->frames[index] && !store_get_row(host, pages, index, 1u << pages->order))
			return -ENOMEM;
		if (*order > pages->order)
			*order = pages->order;
	}
	return 0;
}

int sim_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	struct sim_frame *frame;
	int error;

	if (index >= pages->limit)
		return -ENOMEM;
	error = store_get_unit(host, pages, index, order);
	if (error)
		return error;
	if (!pages->frames[index]) {
		uint32_t got = sim_alloc_fails(host) ? SIM_NO_FRAME : sim_frame_alloc(host, 0xa5);

		if (got == SIM_NO_FRAME)
			return -ENOMEM;
		pages->frames[index] = got + 1;
	}
	frame = &host->frames[pages->frames[index] - 1];
	pfn->v = (uint64_t)(uintptr_t)frame->bytes >> QUIRE_PAGE_SHIFT;
	return frame->poisoned ? -EHWPOISON : 0;
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

/* @count frames: a row, or one by one. */
static bool frames_for_unit(struct sim_host *host, uint32_t *frames, uint32_t count, int whole)
{
	uint32_t row = whole ? sim_frames_row(host, count, 0xa5) : SIM_NO_FRAME, i;

	if (sim_alloc_fails(host) || (whole && row == SIM_NO_FRAME)) {
		if (row != SIM_NO_FRAME)
			sim_frames_put(host, row, count);
		return false;
	}
	for (i = 0; i < count; i++) {
		frames[i] = whole ? row + i : sim_frame_alloc(host, 0xa5);
		if (frames[i] == SIM_NO_FRAME)
			break;
	}
	if (i == count)
		return true;
	while (i--)
		sim_frames_put(host, frames[i], 1);
	return false;
}

/* Has any page of the unit a frame? */
static bool unit_has_frames(const struct sim_store *pages, uint64_t index)
{
	for (uint64_t i = index; i < index + (UINT64_C(1) << pages->order); i++)
		if (i < pages->limit && pages->frames[i])
			return true;
	return false;
}

/* The bytes move to other frames, and those they leave show foreign bytes. */
int sim_store_reshape(void *ctx, void *store, uint64_t index, int whole)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	uint32_t count = 1u << pages->order, frames[SIM_BLOCK];

	sched_yield_point();
	if (pages->small[index] == !whole)
		return 0;
	if (!unit_has_frames(pages, index)) {
		pages->small[index] = !whole;
		return 0;
	}
	/* 1 GiB is more than the machine has in small frames. */
	if (count > SIM_BLOCK || !frames_for_unit(host, frames, count, whole))
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t *at = &pages->frames[index + i];

		if (*at) {
			memcpy(host->frames[frames[i]].bytes, host->frames[*at - 1].bytes,
			       SIM_FRAME_BYTES);
			sim_frames_put(host, *at - 1, 1);
		}
		*at = frames[i] + 1;
	}
	pages->small[index] = !whole;
	return 0;
}
