/* Storage of guest_memfd pages: one mapping of ours of the whole file. */
#include <errno.h>
#include <sys/mman.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/* Each level of the tables maps 2^9 times as much as the one below. */
#define LEVEL_ORDER 9u

static const uint8_t zero_page[QUIRE_PAGE_SIZE] __attribute__((aligned(4096)));

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

	if (!made || !made->base || made->size_bytes < size_bytes)
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

/* Fault a page of the file in. An abort means nothing here: the caller waits for no client. */
static int make_page(const struct process_store *store, uint64_t index)
{
	enum guard_reason reason;

	do
		reason = guard_touch(page_address(store, index), true);
	while (reason == GUARD_ABORT);
	return store_error(reason);
}

int process_store_get(void *ctx, void *opaque, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	const struct process_store *store = opaque;
	unsigned int got = block_order(store, index, *order);
	uint64_t pages = UINT64_C(1) << got;
	uint64_t first = index & ~(pages - 1);

	for (uint64_t i = first; i < first + pages; i++) {
		int error = make_page(store, i);

		if (error)
			return error;
	}
	*order = got;
	*pfn = (pfn_t){page_address(store, index) >> QUIRE_PAGE_SHIFT};
	return 0;
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

int process_store_zero(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	const struct process_store *store = opaque;

	if (store->born_zero)
		return 0;
	for (uint64_t i = index; i < index + npages; i++) {
		int error = zero_one(page_address(store, i));

		if (error)
			return error;
	}
	return 0;
}

/*
 * Shared memory gives the pages back and takes them out of every mapping. Memory that cannot (some
 * other file system, a seal) keeps its pages; what they held must be gone all the same.
 */
void process_store_punch(void *ctx, void *opaque, uint64_t index, uint64_t npages)
{
	long error;

	do
		error = sys_call(SYS_madvise, page_address(opaque, index), npages * QUIRE_PAGE_SIZE,
				 MADV_REMOVE);
	while (error == -EINTR || error == -EAGAIN);
	if (error)
		for (uint64_t i = index; i < index + npages; i++)
			zero_one(page_address(opaque, i));
}
