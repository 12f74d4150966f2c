/* The simulated machine. */
#include "hosts/sim/sim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (UINT64_C(2) << 20)
#define CHUNK_CLEARED_BYTES 32768u
#define STORE_PAGES_MAX 1024u
#define SIM_BLOCK_ORDER 9u

/* Pages of a guest_memfd: frame number + 1, or 0. */
struct sim_store {
	uint64_t npages;
	uint32_t frames[STORE_PAGES_MAX];
};

bool sim_host_init(struct sim_host *host)
{
	memset(host, 0, sizeof(*host));
	host->memory = aligned_alloc(CHUNK_BYTES, SIM_FRAMES * QUIRE_PAGE_SIZE);
	if (!host->memory)
		return false;
	sim_host_reset(host);
	return true;
}

void sim_host_destroy(struct sim_host *host)
{
	while (host->spare_chunks) {
		void *next = *(void **)host->spare_chunks;

		free(host->spare_chunks);
		host->spare_chunks = next;
	}
	free(host->memory);
}

void sim_host_reset(struct sim_host *host)
{
	for (uint32_t i = 0; i < SIM_FRAMES; i++) {
		host->frames[i] = (struct sim_frame){.bytes = host->memory + i * QUIRE_PAGE_SIZE,
						     .counted = true};
	}
	memset(host->pages, 0, sizeof(host->pages));
	host->next_frame = 0;
}

static bool alloc_fails(struct sim_host *host)
{
	return ++host->allocations == host->fail_at;
}

/* Frames are handed out in turn: the same run takes the same frames, and one that was freed stays
 * free for long, so that a late access to it is seen. */
static uint32_t frame_alloc(struct sim_host *host)
{
	for (uint32_t tries = 0; tries < SIM_FRAMES; tries++) {
		uint32_t i = host->next_frame++ % SIM_FRAMES;

		if (host->frames[i].references)
			continue;
		host->frames[i].references = 1;
		host->frames[i].generation++;
		host->frames[i].poisoned = false;
		host->frames[i].accessed = host->frames[i].dirty = false;
		memset(host->frames[i].bytes, 0, SIM_FRAME_BYTES);
		return i;
	}
	return SIM_FRAMES;
}

static void frame_put(struct sim_host *host, uint32_t frame)
{
	/* A free frame shows foreign bytes, so that a stale mapping is seen. */
	if (--host->frames[frame].references == 0)
		memset(host->frames[frame].bytes, SIM_POISON, SIM_FRAME_BYTES);
}

uint32_t sim_map(struct sim_host *host, uint32_t page, uint32_t flags)
{
	uint32_t frame = frame_alloc(host);

	host->pages[page] = (struct sim_page){.frame = frame, .flags = SIM_MAPPED | flags};
	return frame;
}

static bool block_is_free(const struct sim_host *host, uint32_t first)
{
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		if (host->frames[first + i].references)
			return false;
	return true;
}

/* The first of SIM_BLOCK aligned free frames, or SIM_FRAMES. */
static uint32_t row_find(const struct sim_host *host)
{
	uint32_t first = 0;

	while (first < SIM_FRAMES && !block_is_free(host, first))
		first += SIM_BLOCK;
	return first;
}

static void row_take(struct sim_host *host, uint32_t first, uint8_t fill)
{
	if (host->next_frame < first + SIM_BLOCK)
		host->next_frame = first + SIM_BLOCK;
	for (uint32_t i = 0; i < SIM_BLOCK; i++) {
		struct sim_frame *frame = &host->frames[first + i];

		frame->references = 1;
		frame->generation++;
		frame->poisoned = false;
		memset(frame->bytes, fill, SIM_FRAME_BYTES);
	}
}

void sim_map_huge(struct sim_host *host, uint32_t page, uint32_t flags)
{
	uint32_t first = row_find(host);

	if (first == SIM_FRAMES)
		abort();
	row_take(host, first, 0);
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		host->pages[page + i] =
		    (struct sim_page){.frame = first + i, .flags = SIM_MAPPED | flags};
}

void sim_unmap(struct sim_host *host, uint32_t page)
{
	if (!(host->pages[page].flags & SIM_MAPPED))
		return;
	host->pages[page].flags = 0;
	frame_put(host, host->pages[page].frame);
}

static struct sim_page *page_at(struct sim_host *host, uint64_t hva)
{
	uint64_t page = (hva - SIM_HVA_BASE) / QUIRE_PAGE_SIZE;

	if (hva < SIM_HVA_BASE || page >= SIM_PAGES || !(host->pages[page].flags & SIM_MAPPED))
		return NULL;
	return &host->pages[page];
}

static void *sim_alloc(void *ctx, size_t size_bytes)
{
	struct sim_host *host = ctx;
	size_t rounded = (size_bytes + 63) & ~(size_t)63;
	void *mem;

	if (alloc_fails(host))
		return NULL;
	mem = aligned_alloc(64, rounded);
	if (mem) {
		memset(mem, 0, rounded);
		host->allocated_bytes += size_bytes;
	}
	return mem;
}

static void sim_free(void *ctx, void *mem, size_t size_bytes)
{
	struct sim_host *host = ctx;

	host->allocated_bytes -= size_bytes;
	free(mem);
}

static void *sim_chunk_alloc(void *ctx)
{
	struct sim_host *host = ctx;
	void *chunk = host->spare_chunks;

	if (alloc_fails(host))
		return NULL;
	if (chunk)
		host->spare_chunks = *(void **)chunk;
	else
		chunk = aligned_alloc(CHUNK_BYTES, CHUNK_BYTES);
	if (!chunk)
		return NULL;
	/* What lies behind the descriptors is filled before it is used. */
	memset(chunk, 0, CHUNK_CLEARED_BYTES);
	host->chunks++;
	return chunk;
}

static void sim_chunk_free(void *ctx, void *chunk)
{
	struct sim_host *host = ctx;

	*(void **)chunk = host->spare_chunks;
	host->spare_chunks = chunk;
	host->chunks--;
}

static bool is_counted(const struct sim_page *mapped, const struct sim_frame *frame)
{
	return frame->counted && !frame->reserved && !(mapped->flags & SIM_DEVICE);
}

static int sim_page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	struct sim_host *host = ctx;
	struct sim_page *mapped = page_at(host, hva.v);
	struct sim_frame *frame;

	if (!mapped)
		return -EFAULT;
	if ((mapped->flags & SIM_SLOW) && (flags & QUIRE_PAGE_NOWAIT))
		return -EAGAIN;
	if ((mapped->flags & SIM_SLOW) && (flags & QUIRE_PAGE_INTERRUPTIBLE) && host->interrupted)
		return -EINTR;
	if ((flags & QUIRE_PAGE_WRITE) && !(mapped->flags & SIM_WRITABLE))
		return mapped->flags & SIM_DEVICE ? -EROFS : -EFAULT;
	frame = &host->frames[mapped->frame];
	if (frame->poisoned)
		return -EHWPOISON;
	page->refcounted = is_counted(mapped, frame);
	/* It may go at any time: only for those who hear of that. */
	if (!page->refcounted && !(flags & QUIRE_PAGE_GUARDED))
		return -EINVAL;
	page->pfn.v = (uint64_t)(uintptr_t)frame->bytes >> QUIRE_PAGE_SHIFT;
	page->writable = (mapped->flags & SIM_WRITABLE) != 0;
	if (page->refcounted)
		frame->references++;
	return 0;
}

static void sim_page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	struct sim_host *host = ctx;
	uint64_t address = page->pfn.v << QUIRE_PAGE_SHIFT;
	uint64_t index = (address - (uint64_t)(uintptr_t)host->memory) / QUIRE_PAGE_SIZE;
	struct sim_frame *frame = &host->frames[index];

	if (!page->refcounted || !frame->counted || frame->reserved || !frame->references) {
		host->violations++;
		return;
	}
	frame->accessed |= use != QUIRE_PAGE_UNUSED;
	frame->dirty |= use == QUIRE_PAGE_DIRTY;
	frame_put(host, (uint32_t)index);
}

/* Huge where a block of pages shows one aligned row of frames, all with the same rights. */
static enum quire_level sim_page_level(void *ctx, hva_t hva, enum quire_level max)
{
	const struct sim_host *host = ctx;
	uint32_t page = (uint32_t)((hva.v - SIM_HVA_BASE) / QUIRE_PAGE_SIZE) & ~(SIM_BLOCK - 1);
	const struct sim_page *pages = &host->pages[page];

	if (max < QUIRE_LEVEL_2M || pages[0].frame % SIM_BLOCK || !(pages[0].flags & SIM_MAPPED))
		return QUIRE_LEVEL_4K;
	for (uint32_t i = 1; i < SIM_BLOCK; i++)
		if (pages[i].frame != pages[0].frame + i || pages[i].flags != pages[0].flags)
			return QUIRE_LEVEL_4K;
	return QUIRE_LEVEL_2M;
}

static int sim_copy_from(void *ctx, void *dst, hva_t src, size_t size_bytes)
{
	struct sim_host *host = ctx;
	struct sim_page *page = page_at(host, src.v);

	if (!page)
		return -EFAULT;
	memcpy(dst, host->frames[page->frame].bytes + (src.v & ~QUIRE_PAGE_MASK), size_bytes);
	return 0;
}

static int sim_copy_to(void *ctx, hva_t dst, const void *src, size_t size_bytes)
{
	struct sim_host *host = ctx;
	struct sim_page *page = page_at(host, dst.v);

	if (!page || !(page->flags & SIM_WRITABLE))
		return -EFAULT;
	memcpy(host->frames[page->frame].bytes + (dst.v & ~QUIRE_PAGE_MASK), src, size_bytes);
	return 0;
}

static uint64_t *word_at(struct sim_host *host, hva_t hva, uint32_t flags)
{
	const struct sim_page *page = page_at(host, hva.v);

	if (!page || (page->flags & flags) != flags)
		return NULL;
	return (uint64_t *)(host->frames[page->frame].bytes + (hva.v & ~QUIRE_PAGE_MASK));
}

static int sim_load_u64(void *ctx, hva_t src, uint64_t *value)
{
	const uint64_t *word = word_at(ctx, src, 0);

	if (!word)
		return -EFAULT;
	*value = *word;
	return 0;
}

static int sim_cmpxchg_u64(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	uint64_t *word = word_at(ctx, dst, SIM_WRITABLE), wanted = *expected;

	if (!word)
		return -EFAULT;
	*expected = *word;
	if (*word == wanted)
		*word = desired;
	return 0;
}

static int sim_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	struct sim_store *made = sim_alloc(ctx, sizeof(*made));

	(void)cookie;
	if (!made)
		return -ENOMEM;
	made->npages = size_bytes / QUIRE_PAGE_SIZE;
	*store = made;
	return 0;
}

uint32_t sim_store_frame(const void *store, uint64_t index)
{
	const struct sim_store *pages = store;

	return index < STORE_PAGES_MAX && pages->frames[index] ? pages->frames[index] - 1
							       : SIM_FRAMES;
}

static void sim_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;

	for (uint64_t i = index; i < index + npages && i < STORE_PAGES_MAX; i++) {
		if (pages->frames[i])
			frame_put(host, pages->frames[i] - 1);
		pages->frames[i] = 0;
	}
}

static void sim_store_destroy(void *ctx, void *store)
{
	sim_store_punch(ctx, store, 0, STORE_PAGES_MAX);
	sim_free(ctx, store, sizeof(struct sim_store));
}

/* A row of frames for the whole block around @index, none of which is there yet. */
static bool store_get_block(struct sim_host *host, struct sim_store *pages, uint64_t index)
{
	uint64_t first = index & ~(uint64_t)(SIM_BLOCK - 1);
	uint32_t row;

	if (first + SIM_BLOCK > pages->npages)
		return false;
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		if (pages->frames[first + i])
			return false;
	row = row_find(host);
	if (row == SIM_FRAMES || alloc_fails(host))
		return false;
	row_take(host, row, 0xa5);
	for (uint32_t i = 0; i < SIM_BLOCK; i++)
		pages->frames[first + i] = row + i + 1;
	return true;
}

static int sim_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;
	struct sim_frame *frame;

	if (index >= STORE_PAGES_MAX)
		return -ENOMEM;
	if (*order < SIM_BLOCK_ORDER || !store_get_block(host, pages, index))
		*order = 0;
	else
		*order = SIM_BLOCK_ORDER;
	if (!pages->frames[index]) {
		uint32_t got = alloc_fails(host) ? SIM_FRAMES : frame_alloc(host);

		if (got == SIM_FRAMES)
			return -ENOMEM;
		/* What a fresh page holds is unspecified: the library zeroes it. */
		memset(host->frames[got].bytes, 0xa5, SIM_FRAME_BYTES);
		pages->frames[index] = got + 1;
	}
	frame = &host->frames[pages->frames[index] - 1];
	pfn->v = (uint64_t)(uintptr_t)frame->bytes >> QUIRE_PAGE_SHIFT;
	return frame->poisoned ? -EHWPOISON : 0;
}

static int sim_store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	struct sim_host *host = ctx;
	struct sim_store *pages = store;

	for (uint64_t i = index; i < index + npages; i++)
		memset(host->frames[pages->frames[i] - 1].bytes, 0, SIM_FRAME_BYTES);
	return 0;
}

static void sim_kick(void *ctx, void *cookie)
{
	struct sim_host *host = ctx;

	(void)cookie;
	host->kicks++;
}

const struct quire_host_ops sim_host_ops = {
    .alloc = sim_alloc,
    .free = sim_free,
    .chunk_alloc = sim_chunk_alloc,
    .chunk_free = sim_chunk_free,
    .page_get = sim_page_get,
    .page_put = sim_page_put,
    .page_level = sim_page_level,
    .copy_from = sim_copy_from,
    .copy_to = sim_copy_to,
    .load_u64 = sim_load_u64,
    .cmpxchg_u64 = sim_cmpxchg_u64,
    .store_create = sim_store_create,
    .store_destroy = sim_store_destroy,
    .store_get = sim_store_get,
    .store_zero = sim_store_zero,
    .store_punch = sim_store_punch,
    .kick = sim_kick,
};
