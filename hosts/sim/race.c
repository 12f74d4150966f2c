/* Data races: accesses to the same bytes, one of them plain and one a write, that nothing orders.
 */
#include <stdio.h>
#include <string.h>

#include "hosts/sim/order_model.h"
#include "hosts/sim/sched.h"

#define CELL_BYTES 4u /* fields that lie side by side have their own */

/* One access to some bytes of a cell. time 0: none. */
struct mark {
	uintptr_t site;
	uint32_t time;
	uint8_t bytes; /* a bit each */
	bool is_plain;
};

/* The last write, and the last read of each thread, of an aligned group of bytes. */
struct cell {
	uint32_t writer;
	struct mark write, reads[ORDER_THREADS_MAX];
};

static struct order_index met;
static struct cell cells[ORDER_ADDRESSES_MAX]; /* of those that @met knows */
static struct order_race last;

void order_race_start(void)
{
	met.count = 0;
	last.site = 0;
}

static struct cell *cell_of(uintptr_t address)
{
	bool is_new;
	struct cell *cell = &cells[order_index_of(&met, address, &is_new)];

	if (is_new)
		memset(cell, 0, sizeof(*cell));
	return cell;
}

void order_race_forget(uintptr_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < met.count; i++)
		if (met.known[i].address - start < size_bytes)
			memset(&cells[i], 0, sizeof(cells[i]));
}

const struct order_race *order_race_last(void)
{
	return last.site ? &last : NULL;
}

static void report(const struct order_access *access, const struct mark *other, bool other_writes,
		   uint32_t thread)
{
	char text[256];

	last.site = access->site;
	last.other_site = other->site;
	last.other_thread = thread;
	last.other_time = other->time;
	/* As addr2line(1) takes them; the same whichever threads they are, and wherever the word.
	 */
	snprintf(text, sizeof(text), "data race: code at %#lx %s %u bytes that code at %#lx %s",
		 (unsigned long)(access->site - order_code(0)),
		 access->is_write ? "writes" : "reads", access->size_bytes,
		 (unsigned long)(other->site - order_code(0)), other_writes ? "wrote" : "read");
	sched_platform.report(text);
}

static bool races(const struct order_access *access, uint8_t bytes, const struct mark *other,
		  uint32_t thread)
{
	return other->time && other->bytes & bytes && (access->is_plain || other->is_plain) &&
	       !order_knows(thread, other->time);
}

static void check_cell(struct cell *cell, const struct order_access *access, uint8_t bytes)
{
	uint32_t me = sched_current();
	struct mark mark = {access->site, order_time(), bytes, access->is_plain};

	if (races(access, bytes, &cell->write, cell->writer)) {
		report(access, &cell->write, true, cell->writer);
		return;
	}
	for (uint32_t i = 0; access->is_write && i < ORDER_THREADS_MAX; i++) {
		if (i == me || !races(access, bytes, &cell->reads[i], i))
			continue;
		report(access, &cell->reads[i], false, i);
		return;
	}
	if (access->is_write) {
		cell->write = mark;
		cell->writer = me;
	} else {
		cell->reads[me] = mark;
	}
}

void order_race_check(const struct order_access *access)
{
	uintptr_t from = (uintptr_t)access->to, end = from + access->size_bytes;

	for (uintptr_t at = from & ~(uintptr_t)(CELL_BYTES - 1); at < end; at += CELL_BYTES) {
		uint32_t bytes = (1u << CELL_BYTES) - 1;

		if (at < from)
			bytes &= bytes << (from - at);
		if (end - at < CELL_BYTES)
			bytes &= (1u << (end - at)) - 1;
		check_cell(cell_of(at), access, (uint8_t)bytes);
	}
}
