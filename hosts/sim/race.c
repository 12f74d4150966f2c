/* Data races: accesses to the same bytes, one of them plain and one a write, that nothing orders.
 */
#include <execinfo.h>
#include <stdio.h>
#include <string.h>

#include "hosts/sim/order_model.h"
#include "hosts/sim/sched.h"

#define CELL_BYTES 4u /* fields that lie side by side have their own */
#define CELLS 65536u  /* a power of two */
#define PROBES_MAX 16u
#define FRAMES_MAX 12

/* One access to some bytes of a cell. time 0: none. */
struct mark {
	uintptr_t site;
	uint32_t time;
	uint8_t bytes; /* a bit each */
	bool is_plain;
};

/* The last write, and the last read of each thread, of an aligned group of bytes. */
struct cell {
	uint32_t generation, writer;
	struct mark write, reads[ORDER_THREADS_MAX];
};

static struct cell cells[CELLS];
static uintptr_t addresses[CELLS]; /* of the cells */
static uint32_t generation;

void order_race_start(void)
{
	generation++;
}

static struct cell *cell_of(uintptr_t address)
{
	uint32_t slot = (uint32_t)((address / CELL_BYTES) * UINT64_C(0x9e3779b97f4a7c15) >> 40);
	struct cell *cell = NULL;

	for (uint32_t i = 0; i < PROBES_MAX; i++, slot++) {
		cell = &cells[slot % CELLS];
		if (cell->generation != generation)
			break;
		if (addresses[slot % CELLS] == address)
			return cell;
	}
	memset(cell, 0, sizeof(*cell));
	addresses[cell - cells] = address;
	cell->generation = generation;
	return cell;
}

void order_race_forget(uintptr_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < CELLS; i++)
		if (addresses[i] - start < size_bytes)
			cells[i].generation = 0;
}

static void report(const struct order_access *access, const struct mark *other, bool other_writes,
		   uint32_t thread)
{
	char text[256];
	void *frames[FRAMES_MAX];
	int count = backtrace(frames, FRAMES_MAX);

	/* Addresses, for what reads this knows the file: tests/order/order.py. */
	snprintf(text, sizeof(text),
		 "data race: thread %u %s %u bytes at %p, at %#lx; thread %u %s them at %#lx",
		 sched_current(), access->is_write ? "writes" : "reads", access->size_bytes,
		 access->to, (unsigned long)access->site, thread, other_writes ? "wrote" : "read",
		 (unsigned long)other->site);
	fflush(stdout);
	backtrace_symbols_fd(frames, count, 2);
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
