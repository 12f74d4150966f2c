/* A host for parts of the library: its memory comes and goes by plain stores, which races show. */
#include "tests/sim/order/part_host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/atomic.h"
#include "src/gmem/rmp.h"

#define MEMORY_WORDS (256u * 1024 / sizeof(uint64_t))
#define CHUNK_BYTES (UINT64_C(1) << 21)

static _Alignas(64) uint64_t memory[MEMORY_WORDS];
static _Alignas(CHUNK_BYTES) uint8_t chunk[CHUNK_BYTES];
static uint64_t words_used;
static uint32_t failed; /* (a) */
struct part_store part_store;

static void fill(uint64_t *at, size_t size_bytes, uint64_t value)
{
	for (size_t i = 0; i < size_bytes / sizeof(*at); i++)
		*(volatile uint64_t *)&at[i] = value;
}

static void *part_alloc(void *ctx, size_t size_bytes)
{
	uint64_t words = (size_bytes + 63) / 64 * 8;
	uint64_t *found;

	(void)ctx;
	if (sched_current() + 1 == part_store.starved)
		return NULL;
	found = &memory[__atomic_fetch_add(&words_used, words, __ATOMIC_RELAXED)];
	if (found + words > memory + MEMORY_WORDS)
		abort();
	fill(found, words * sizeof(*found), 0);
	return found;
}

static void part_free(void *ctx, void *mem, size_t size_bytes)
{
	(void)ctx;
	fill(mem, size_bytes, UINT64_C(0xdddddddddddddddd));
}

static void *part_chunk_alloc(void *ctx)
{
	(void)ctx;
	return chunk;
}

static void part_chunk_free(void *ctx, void *freed)
{
	(void)ctx;
	(void)freed;
}

static int part_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	(void)ctx;
	(void)cookie;
	(void)size_bytes;
	*store = &part_store;
	return 0;
}

static void part_store_destroy(void *ctx, void *store)
{
	(void)ctx;
	(void)store;
}

static int part_store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	(void)ctx;
	(void)store;
	*order = 0;
	pfn->v = PART_FRAME + (part_store.scattered ? 2 * index : index);
	return 0;
}

static int part_store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	for (uint64_t i = index; i < index + npages; i++)
		part_touch(&part_store.pages[i]);
	return 0;
}

static void part_store_punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)part_store_zero(ctx, store, index, npages);
}

static void kick(void *ctx, void *cookie)
{
	(void)ctx;
	(void)cookie;
}

const struct quire_host_ops part_host = {
    .alloc = part_alloc,
    .free = part_free,
    .chunk_alloc = part_chunk_alloc,
    .chunk_free = part_chunk_free,
    .store_create = part_store_create,
    .store_destroy = part_store_destroy,
    .store_get = part_store_get,
    .store_zero = part_store_zero,
    .store_punch = part_store_punch,
    .kick = kick,
};

void part_host_start(void)
{
	words_used = 0;
	failed = 0;
	memset(&part_store, 0, sizeof(part_store));
	rmp_start_anew();
}

struct quire_vm *part_vm_start(enum quire_vm_type type, const struct quire_confidential_ops *ops)
{
	const struct quire_vm_config config = {
	    .type = type,
	    .format = QUIRE_FORMAT_EPT,
	    .maxphyaddr = QUIRE_MAXPHYADDR_MAX,
	    .host = &part_host,
	    .confidential = ops,
	};
	struct quire_vm *vm;

	part_host_start();
	if (quire_vm_create(&config, &vm))
		abort();
	return vm;
}

void part_expect(bool holds)
{
	if (!holds)
		atomic_store_relaxed_u32(&failed, 1);
}

bool part_is_good(void *ctx)
{
	(void)ctx;
	return !failed;
}

uint32_t part_look(const uint32_t *word)
{
	return *(const volatile uint32_t *)word;
}

void part_touch(uint32_t *word)
{
	*(volatile uint32_t *)word = 1;
}
