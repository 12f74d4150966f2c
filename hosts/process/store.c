/* Storage of guest_memfd pages: one mapping of ours of the whole file. */
#include <errno.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"
#include "src/base/mutant.h"

/* Each level of the tables maps 2^9 times as much as the one below. */
#define LEVEL_ORDER 9u

static const uint8_t zero_page[QUIRE_PAGE_SIZE] __attribute__((aligned(4096)));

#define HUGE_BYTES (UINT64_C(2) << 20)

/* The file cannot hold the page (its file system is full), or lost it. */
static int store_error(enum guard_reason reason)
{
	switch (reason) {
	case GUARD_OK:
		return 0;
	case GUARD_POISON:
		return -EHWPOISON;
	default:
		return -ENOMEM;
	}
}

static uint64_t page_address(const struct process_store *store, uint64_t index)
{
	return sys_address(store->base) + index * QUIRE_PAGE_SIZE;
}

int process_store_create(void *ctx, void *cookie, uint64_t size_bytes, void **store)
{
	struct process_store *made = cookie;

	if (!made || !made->base || made->size_bytes < size_bytes || made->huge_bytes)
		return -EINVAL;
	*store = made;
	return 0;
}

/* The mapping is its maker's. */
void process_store_destroy(void *ctx, void *opaque)
{
	struct process_store *store = opaque;

	if (store->destroyed)
		store->destroyed(store);
}

/* The largest order up to @order that a table level has, whose block around @index is inside, and
 * aligned in memory. */
static unsigned int block_order(const struct process_store *store, uint64_t index,
				unsigned int order)
{
	for (; order; order -= order < LEVEL_ORDER ? order : LEVEL_ORDER) {
		uint64_t pages = UINT64_C(1) << order;
		uint64_t first = index & ~(pages - 1);

		if (!(sys_address(store->base) % (pages * QUIRE_PAGE_SIZE)) &&
		    (first + pages) * QUIRE_PAGE_SIZE <= store->size_bytes)
			break;
	}
	return order;
}

/*
 * Read-ahead for first touches: an exception for each page is a fifth of their price. After a full
 * group of pages was asked for one by one in order, the next group is made by one call. Pages that
 * are touched here and there cost what they cost, and a run that ends has made AHEAD_PAGES - 1 too
 * many at most. What is made ahead exists for the file system alone: the library asks for each page
 * in its turn, and a punch takes them all.
 */
#define AHEAD_PAGES 16u

/* Of each of the last blocks of 2 MiB: the page after the last one asked for, and how many before.
 */
#define RUN_COUNT_BITS 8u
#define RUN_COUNT_MAX ((UINT64_C(1) << RUN_COUNT_BITS) - 1)

/* Pages asked for in order up to @index, as far as is known. Threads may spoil each other's counts.
 */
static uint64_t run_note(struct process_store *store, uint64_t index)
{
	uint64_t *run = &store->runs[(index >> QUIRE_TABLE_BITS) % PROCESS_STORE_RUNS];
	uint64_t seen = __atomic_load_n(run, __ATOMIC_RELAXED);
	uint64_t count = seen >> RUN_COUNT_BITS == index ? seen & RUN_COUNT_MAX : 0;
	uint64_t now = count < RUN_COUNT_MAX ? count + 1 : count;

	__atomic_store_n(run, (index + 1) << RUN_COUNT_BITS | now, __ATOMIC_RELAXED);
	return count;
}

/* Nonzero: some page is not there, whatever the reason; its next user gets the error. */
static long make_pages(const struct process_store *store, uint64_t first, uint64_t npages)
{
	return sys_call(SYS_madvise, page_address(store, first), npages * QUIRE_PAGE_SIZE,
			MADV_POPULATE_WRITE);
}

static void make_ahead(struct process_store *store, uint64_t index)
{
	uint64_t before = run_note(store, index);

	if (MUTANT(ahead_off) || index % AHEAD_PAGES || before < AHEAD_PAGES ||
	    (index + AHEAD_PAGES) * QUIRE_PAGE_SIZE > store->size_bytes)
		return;
	(void)make_pages(store, index, AHEAD_PAGES);
}

/* An abort means nothing here: the caller waits for no client. */
int process_memory_touch(uint64_t address)
{
	enum guard_reason reason;

	do
		reason = guard_touch(address, true);
	while (reason == GUARD_ABORT);
	return store_error(reason);
}

int process_store_get(void *ctx, void *opaque, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	struct process_store *store = opaque;
	unsigned int got = store->is_exact ? 0 : block_order(store, index, *order);
	uint64_t pages = UINT64_C(1) << got;
	uint64_t first = index & ~(pages - 1);

	if (store->huge_bytes)
		return process_huge_get(store, index, order, pfn);
	if (!got && !store->is_exact)
		make_ahead(store, index);
	for (uint64_t i = first; i < first + pages; i++) {
		int error = process_memory_touch(page_address(store, i));

		if (error)
			return error;
	}
	*order = got;
	*pfn = (pfn_t){page_address(store, index) >> QUIRE_PAGE_SHIFT};
	return 0;
}

/*
 * The kernel is asked without an access of ours: the thread that hears the news blocks SIGBUS. A
 * page that is nowhere is not made; that a failed one is in core is what mincore() says of its
 * mark.
 */
int process_frame_lost(void *ctx, pfn_t pfn)
{
	uint64_t address = pfn.v << QUIRE_PAGE_SHIFT;
	uint8_t resident = 0;
	long error;

	if (sys_call(SYS_mincore, address, QUIRE_PAGE_SIZE, sys_address(&resident)))
		return 1;
	if (!(resident & 1))
		return 0;
	do
		error = sys_call(SYS_madvise, address, QUIRE_PAGE_SIZE, MADV_POPULATE_READ);
	while (error == -EINTR || error == -EAGAIN);
	return error != 0;
}

static int zero_one(uint64_t address)
{
	size_t total = 0, done;
	enum guard_reason reason;

	do {
		reason = guard_copy((void *)(uintptr_t)(address + total), zero_page,
				    QUIRE_PAGE_SIZE - total, &done);
		total += done;
	} while (reason == GUARD_ABORT);
	return store_error(reason);
}

int process_memory_zero(uint64_t address, uint64_t size_bytes)
{
	int error = 0;

	for (uint64_t at = 0; at < size_bytes && !error; at += QUIRE_PAGE_SIZE)
		error = zero_one(address + at);
	return error;
}

int process_store_zero(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	const struct process_store *store = opaque;

	if (store->born_zero)
		return 0;
	return process_memory_zero(page_address(store, index), npages * QUIRE_PAGE_SIZE);
}

/*
 * The pages of our mapping are about to go: that they were used is not worth noting. The kernel
 * would move each to its list of active pages first, since those made ahead have been noted once.
 */
static void expect_reuse(uint64_t address, uint64_t size_bytes, int advice)
{
	if (size_bytes >= HUGE_BYTES)
		(void)sys_call(SYS_madvise, address, size_bytes, (uint64_t)advice);
}

/*
 * Shared memory gives the pages back and takes them out of every mapping. Memory that cannot (some
 * other file system, a seal) keeps its pages; what they held must be gone all the same.
 */
void process_memory_punch(uint64_t address, uint64_t size_bytes)
{
	long error;

	expect_reuse(address, size_bytes, MADV_RANDOM);
	do
		error = sys_call(SYS_madvise, address, size_bytes, MADV_REMOVE);
	while (error == -EINTR || error == -EAGAIN);
	/* A client's mlockall() locked our mapping, too: locked memory has no holes. */
	if (error == -EINVAL && !sys_call(SYS_munlock, address, size_bytes))
		error = sys_call(SYS_madvise, address, size_bytes, MADV_REMOVE);
	expect_reuse(address, size_bytes, MADV_NORMAL);
	/* A page that failed is gone from the file; the mark of it in our mapping is not. */
	if (!error) {
		(void)sys_call(SYS_madvise, address, size_bytes, MADV_DONTNEED);
		return;
	}
	(void)process_memory_zero(address, size_bytes);
}

void process_store_punch(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	struct process_store *store = opaque;

	if (store->huge_bytes)
		process_huge_punch(store, index, npages);
	else
		process_memory_punch(page_address(store, index), npages * QUIRE_PAGE_SIZE);
}

int process_store_show(void *ctx, void *opaque, uint64_t index, uint64_t npages, int shown)
{
	struct process_store *store = opaque;

	if (!store->show)
		return 0;
	return store->show(store, index * QUIRE_PAGE_SIZE, npages * QUIRE_PAGE_SIZE, shown);
}

/* Frames are addresses here: the next access finds zeros at the same ones. */
int process_store_clear(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	process_store_punch(ctx, opaque, index, npages);
	return 0;
}
