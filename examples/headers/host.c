/* quire/host.h: the machine below the library, here plain memory of this process. */
#include <quire/host.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "example.h"

#define CHUNK_BYTES (2u << 20)

static void *zeroed(size_t alignment, size_t size_bytes)
{
	size_t whole = (size_bytes + alignment - 1) / alignment * alignment;
	void *mem = aligned_alloc(alignment, whole);

	return mem ? memset(mem, 0, whole) : NULL;
}

static void *host_alloc(void *ctx, size_t size_bytes)
{
	return zeroed(64, size_bytes);
}

static void host_free(void *ctx, void *mem, size_t size_bytes)
{
	free(mem);
}

static void *chunk_alloc(void *ctx)
{
	return zeroed(CHUNK_BYTES, CHUNK_BYTES);
}

static void chunk_free(void *ctx, void *chunk)
{
	free(chunk);
}

/* Here a page's number is its address: a walker of the tables can touch what they lead to. */
static int page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	*page = (struct quire_page){.pfn = {hva.v >> QUIRE_PAGE_SHIFT}, .writable = 1};
	return 0;
}

static void page_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
}

static enum quire_level page_level(void *ctx, hva_t hva, enum quire_level max)
{
	return QUIRE_LEVEL_4K;
}

static int copy_from(void *ctx, void *dst, hva_t src, size_t size_bytes)
{
	memcpy(dst, (const void *)(uintptr_t)src.v, size_bytes);
	return 0;
}

static int copy_to(void *ctx, hva_t dst, const void *src, size_t size_bytes)
{
	memcpy((void *)(uintptr_t)dst.v, src, size_bytes);
	return 0;
}

static int store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	*store = zeroed(QUIRE_PAGE_SIZE, size_bytes);
	return *store ? 0 : -ENOMEM;
}

static void store_destroy(void *ctx, void *store)
{
	free(store);
}

static int store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	*order = 0;
	pfn->v = ((uintptr_t)store >> QUIRE_PAGE_SHIFT) + index;
	return 0;
}

static int store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	memset((uint8_t *)store + index * QUIRE_PAGE_SIZE, 0, npages * QUIRE_PAGE_SIZE);
	return 0;
}

static void store_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)store_zero(ctx, store, index, npages);
}

/* One thread: no vCPU is in guest mode while the host asks for something. */
static void kick(void *ctx, void *cookie)
{
}

const struct quire_host_ops example_host = {
    .alloc = host_alloc,
    .free = host_free,
    .chunk_alloc = chunk_alloc,
    .chunk_free = chunk_free,
    .page_get = page_get,
    .page_put = page_put,
    .page_level = page_level,
    .copy_from = copy_from,
    .copy_to = copy_to,
    .store_create = store_create,
    .store_destroy = store_destroy,
    .store_get = store_get,
    .store_zero = store_zero,
    .store_punch = store_punch,
    .kick = kick,
};
