/* Storage of guest_memfd pages in huge pages of the machine's pool, and in small ones while
 * these are split. */
#include <errno.h>
#include <stdbool.h>

#include "hosts/process/guard.h"
#include "hosts/process/internal.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/*
 * The kernel cannot map a part of a huge page for the client. So the bytes of one that the client
 * may see a part of are copied to small pages, which the descriptor shows, and back when none of it
 * may be seen. Its place in the pool stays taken meanwhile: to go back never lacks memory.
 *
 * MADE changes under the lock of a page, SMALL under the locks that keep every page's away.
 */
enum {
	UNIT_MADE = 1,	/* the huge page is there */
	UNIT_SMALL = 2, /* its pages are those of store->small */
};

static unsigned int huge_order(const struct process_store *store)
{
	return (unsigned int)__builtin_ctzll(store->huge_bytes) - QUIRE_PAGE_SHIFT;
}

static uint8_t *unit_of(const struct process_store *store, uint64_t index)
{
	return &store->units[index >> huge_order(store)];
}

static bool unit_has(const struct process_store *store, uint64_t index, uint8_t bit)
{
	return __atomic_load_n(unit_of(store, index), __ATOMIC_RELAXED) & bit;
}

static void unit_set(const struct process_store *store, uint64_t index, uint8_t bit)
{
	__atomic_fetch_or(unit_of(store, index), bit, __ATOMIC_RELAXED);
}

static void unit_clear(const struct process_store *store, uint64_t index, uint8_t bit)
{
	__atomic_fetch_and(unit_of(store, index), (uint8_t)~bit, __ATOMIC_RELAXED);
}

static uint64_t huge_address(const struct process_store *store, uint64_t index)
{
	return sys_address(store->base) + index * QUIRE_PAGE_SIZE;
}

static uint64_t small_address(const struct process_store *store, uint64_t index)
{
	return sys_address(store->small) + index * QUIRE_PAGE_SIZE;
}

int process_store_create_huge(void *ctx, void *cookie, uint64_t size_bytes, unsigned int order,
			      void **store)
{
	struct process_store *made = cookie;

	if (!made || !made->base || made->size_bytes < size_bytes || !made->units ||
	    made->huge_bytes != QUIRE_PAGE_SIZE << order)
		return -EINVAL;
	*store = made;
	return 0;
}

int process_huge_get(struct process_store *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	bool is_small = unit_has(store, index, UNIT_SMALL);
	uint64_t address = is_small ? small_address(store, index) : huge_address(store, index);
	int error = process_memory_touch(address);

	if (error)
		return error;
	if (is_small)
		*order = 0;
	else
		unit_set(store, index, UNIT_MADE);
	if (*order > huge_order(store))
		*order = huge_order(store);
	*pfn = (pfn_t){address >> QUIRE_PAGE_SHIFT};
	return 0;
}

/* All pages are one huge page's. A part of it keeps its memory. */
static void punch_in_unit(struct process_store *store, uint64_t index, uint64_t npages)
{
	uint64_t size_bytes = npages * QUIRE_PAGE_SIZE;
	bool is_small = unit_has(store, index, UNIT_SMALL);
	bool is_part = size_bytes < store->huge_bytes;

	if (is_small)
		process_memory_punch(small_address(store, index), size_bytes);
	if (!unit_has(store, index, UNIT_MADE) || (is_small && is_part))
		return;
	if (is_part) {
		(void)process_memory_zero(huge_address(store, index), size_bytes);
		return;
	}
	process_memory_punch(huge_address(store, index), size_bytes);
	unit_clear(store, index, UNIT_MADE);
}

void process_huge_punch(struct process_store *store, uint64_t index, uint64_t npages)
{
	uint64_t unit = UINT64_C(1) << huge_order(store), end = index + npages;

	while (index < end) {
		uint64_t next = (index | (unit - 1)) + 1;

		if (next > end)
			next = end;
		punch_in_unit(store, index, next - index);
		index = next;
	}
}

static enum guard_reason read_is_zero(uint64_t address, bool *is_zero)
{
	enum guard_reason reason = GUARD_OK;
	uint64_t word = 0;

	for (unsigned int at = 0; at < QUIRE_PAGE_SIZE && !word; at += sizeof(word)) {
		do
			reason = guard_load_u64((const void *)(uintptr_t)(address + at), &word);
		while (reason == GUARD_ABORT);
		if (reason != GUARD_OK)
			break;
	}
	*is_zero = !word;
	return reason;
}

static enum guard_reason copy_page(uint64_t to, uint64_t from)
{
	enum guard_reason reason;
	size_t total = 0, done;

	do {
		reason = guard_copy((void *)(uintptr_t)(to + total),
				    (const void *)(uintptr_t)(from + total),
				    QUIRE_PAGE_SIZE - total, &done);
		total += done;
	} while (reason == GUARD_ABORT);
	return reason;
}

static int copy_error(enum guard_reason reason)
{
	if (reason == GUARD_OK)
		return 0;
	return reason == GUARD_POISON ? -EHWPOISON : -ENOMEM;
}

/* Small pages that were never written read as zeros, and are not made for that. */
static int split(struct process_store *store, uint64_t index)
{
	uint64_t from = huge_address(store, index), to = small_address(store, index);
	enum guard_reason reason = GUARD_OK;
	bool is_zero;

	for (uint64_t at = 0;
	     at < store->huge_bytes && reason == GUARD_OK && unit_has(store, index, UNIT_MADE);
	     at += QUIRE_PAGE_SIZE) {
		reason = read_is_zero(from + at, &is_zero);
		if (reason == GUARD_OK && !is_zero)
			reason = copy_page(to + at, from + at);
	}
	if (reason == GUARD_OK)
		unit_set(store, index, UNIT_SMALL);
	else
		process_memory_punch(to, store->huge_bytes);
	return copy_error(reason);
}

/* Reading a hole makes a page, so this much memory more is taken while holes are read. */
#define HOLES_BYTES (UINT64_C(2) << 20)

/*
 * The small pages at @from, HOLES_BYTES at most, go to @to. Those of zeros go from where they were
 * at once: most are holes, and to go back they need not be there.
 */
static enum guard_reason join_some(uint64_t to, uint64_t from, uint64_t size_bytes)
{
	enum guard_reason reason = GUARD_OK;
	uint64_t zeros = 0, at;
	bool is_zero, was_zero;

	for (at = 0; at < size_bytes && reason == GUARD_OK; at += QUIRE_PAGE_SIZE) {
		reason = read_is_zero(from + at, &is_zero);
		was_zero = false;
		if (reason == GUARD_OK && is_zero)
			reason = read_is_zero(to + at, &was_zero);
		if (reason == GUARD_OK && !was_zero)
			reason = copy_page(to + at, from + at);
		if (reason == GUARD_OK && is_zero)
			continue;
		if (zeros < at)
			process_memory_punch(from + zeros, at - zeros);
		zeros = at + QUIRE_PAGE_SIZE;
	}
	if (zeros < at)
		process_memory_punch(from + zeros, at - zeros);
	return reason;
}

static int join(struct process_store *store, uint64_t index)
{
	uint64_t from = small_address(store, index), to = huge_address(store, index);
	uint64_t step = store->huge_bytes < HOLES_BYTES ? store->huge_bytes : HOLES_BYTES;
	enum guard_reason reason = GUARD_OK;
	int error = process_memory_touch(to);

	if (error)
		return error;
	unit_set(store, index, UNIT_MADE);
	for (uint64_t at = 0; at < store->huge_bytes && reason == GUARD_OK; at += step)
		reason = join_some(to + at, from + at, step);
	if (reason != GUARD_OK)
		return copy_error(reason);
	unit_clear(store, index, UNIT_SMALL);
	process_memory_punch(from, store->huge_bytes);
	return 0;
}

int process_store_reshape(void *ctx, void *opaque, uint64_t index, int whole)
{
	struct process_store *store = opaque;

	if (!store->small || unit_has(store, index, UNIT_SMALL) == !whole)
		return 0;
	return whole ? join(store, index) : split(store, index);
}
