/* Data races: accesses to the same bytes, one of them plain and one a write, that nothing orders.
 */
#include <stdio.h>
#include <string.h>

#include "hosts/sim/order_model.h"

/*
 * Fields that lie side by side have a cell of their own. Most of what a run touches is whole tables
 * that it clears or frees, in loops: so cells are kept by lines, like of their kind side by side,
 * and a line's reads by a thread are set up when it reads there first.
 */
#define CELL_BYTES 4u
#define CELLS 16u
#define LINE_BYTES (CELLS * CELL_BYTES)

/* The last access to some bytes of each cell. */
struct marks {
	uint32_t what[CELLS]; /* mark_of(); 0: none */
	uint32_t site[CELLS]; /* from the program's start */
};

struct line {
	struct marks writes, reads[ORDER_THREADS_MAX];
	uint8_t writer[CELLS];
	uint32_t readers; /* a bit for each thread whose reads are set up */
} __attribute__((aligned(64)));

/* When, whether it was plain, and a bit for each byte. A run is over long before 2^27 accesses. */
#define MARK_BYTES 0xfu
#define MARK_PLAIN 0x10u
#define MARK_TIME_SHIFT 5

static uint32_t mark_of(uint32_t time, bool is_plain, uint32_t bytes)
{
	return time << MARK_TIME_SHIFT | (is_plain ? MARK_PLAIN : 0) | bytes;
}

static struct order_index met;		       /* by number of the line */
static struct line lines[ORDER_ADDRESSES_MAX]; /* of those that @met knows */
static struct order_race last;
static struct {
	uintptr_t start;
	uint64_t size_bytes;
} guarded;

void order_guard(const void *start, uint64_t size_bytes)
{
	guarded.start = (uintptr_t)start;
	guarded.size_bytes = size_bytes;
}

void order_race_end(void)
{
	guarded.size_bytes = 0;
}

void order_race_start(void)
{
	met.count = 0;
	last.site = 0;
}

static struct line *line_of(uintptr_t address)
{
	bool is_new;
	struct line *line = &lines[order_index_of(&met, address / LINE_BYTES, &is_new)];

	if (is_new) {
		memset(line->writes.what, 0, sizeof(line->writes.what));
		line->readers = 0;
	}
	return line;
}

/* Those of the running thread. */
static struct marks *reads_of(struct line *line)
{
	struct marks *reads = &line->reads[sched_current()];

	if (!(line->readers >> sched_current() & 1)) {
		memset(reads->what, 0, sizeof(reads->what));
		line->readers |= 1u << sched_current();
	}
	return reads;
}

static void forget_cell(struct line *line, uint32_t cell)
{
	line->writes.what[cell] = 0;
	for (uint32_t i = 0; line->readers >> i; i++)
		line->reads[i].what[cell] = 0;
}

void order_race_forget(uintptr_t start, uint64_t size_bytes)
{
	for (uint32_t i = 0; i < met.count; i++) {
		uintptr_t from = met.known[i].address * LINE_BYTES;

		/* Below, it may wrap around. */
		if (from - start >= size_bytes && start - from >= LINE_BYTES)
			continue;
		for (uint32_t cell = 0; cell < CELLS; cell++)
			if (from + cell * CELL_BYTES - start < size_bytes)
				forget_cell(&lines[i], cell);
	}
}

const struct order_race *order_race_last(void)
{
	return last.site ? &last : NULL;
}

static void report(const struct order_access *access, const struct marks *others, uint32_t cell,
		   bool other_writes, uint32_t thread)
{
	char text[256];

	last.site = access->site;
	last.other_site = order_code(others->site[cell]);
	last.other_thread = thread;
	last.other_time = others->what[cell] >> MARK_TIME_SHIFT;
	/* As addr2line(1) takes them; the same whichever threads they are, and wherever the word.
	 */
	snprintf(text, sizeof(text), "data race: code at %#lx %s %u bytes that code at %#lx %s",
		 (unsigned long)(access->site - order_code(0)),
		 access->is_write ? "writes" : "reads", access->size_bytes,
		 (unsigned long)others->site[cell], other_writes ? "wrote" : "read");
	sched_platform.report(text);
}

static inline bool races(uint32_t mark, uint32_t other, uint32_t thread)
{
	return other & mark & MARK_BYTES && (other | mark) & MARK_PLAIN &&
	       !order_knows(thread, other >> MARK_TIME_SHIFT);
}

/* With what the others did there last. */
static void check_others(const struct line *line, uint32_t cell, const struct order_access *access,
			 uint32_t mark)
{
	if (races(mark, line->writes.what[cell], line->writer[cell])) {
		report(access, &line->writes, cell, true, line->writer[cell]);
		return;
	}
	for (uint32_t i = 0; access->is_write && line->readers >> i; i++) {
		if (i == sched_current() || !(line->readers >> i & 1) ||
		    !races(mark, line->reads[i].what[cell], i))
			continue;
		report(access, &line->reads[i], cell, false, i);
		return;
	}
}

/*
 * Did the thread do the same at the same time? No other thread can know of that, so that one that
 * came there between has raced, and the run is over.
 */
static inline bool is_again(uint32_t mark, uint32_t before)
{
	return mark & MARK_PLAIN && mark == before;
}

static inline void read_cells(struct line *line, uint32_t first, uint32_t end,
			      const struct order_access *access, uint32_t mark)
{
	uint32_t site = (uint32_t)(access->site - order_code(0));
	struct marks *reads = reads_of(line);

	for (uint32_t cell = first; cell < end; cell++) {
		if (line->writes.what[cell] && !is_again(mark, reads->what[cell]))
			check_others(line, cell, access, mark);
		reads->what[cell] = mark;
		reads->site[cell] = site;
	}
}

static inline void write_cells(struct line *line, uint32_t first, uint32_t end,
			       const struct order_access *access, uint32_t mark)
{
	uint32_t site = (uint32_t)(access->site - order_code(0)), me = sched_current();
	struct marks *writes = &line->writes;

	for (uint32_t cell = first; cell < end; cell++) {
		bool is_first = !writes->what[cell] && !line->readers;

		if (!is_first && !(is_again(mark, writes->what[cell]) && line->writer[cell] == me))
			check_others(line, cell, access, mark);
		writes->what[cell] = mark;
		writes->site[cell] = site;
		line->writer[cell] = (uint8_t)me;
	}
}

/* The bytes of the access in the cell that has @at, which is not all in it. */
static uint32_t bytes_of(uintptr_t at, uintptr_t end)
{
	uint32_t from = at % CELL_BYTES, bytes = MARK_BYTES << from & MARK_BYTES;

	return end - (at - from) < CELL_BYTES ? bytes & ((1u << (end - (at - from))) - 1) : bytes;
}

static inline void check(const struct order_access *access)
{
	uintptr_t at = (uintptr_t)access->to, end = at + access->size_bytes;
	uint32_t now = order_now();

	while (at < end) {
		struct line *line = line_of(at);
		uint32_t cell = at / CELL_BYTES % CELLS, count = 1, bytes = MARK_BYTES, mark;

		if (at % CELL_BYTES || end - at < CELL_BYTES)
			bytes = bytes_of(at, end);
		else if (end - at < LINE_BYTES - at % LINE_BYTES)
			count = (uint32_t)(end - at) / CELL_BYTES;
		else
			count = CELLS - cell;
		mark = mark_of(now, access->is_plain, bytes);
		if (access->is_write)
			write_cells(line, cell, cell + count, access, mark);
		else
			read_cells(line, cell, cell + count, access, mark);
		at += count * CELL_BYTES - at % CELL_BYTES;
	}
}

void order_race_check(const struct order_access *access)
{
	struct order_access judged = *access;

	judged.is_plain = (uintptr_t)access->to - guarded.start < guarded.size_bytes &&
			  !access->acquires && !access->releases;
	check(&judged);
}

void order_race_check_plain(const void *to, uint32_t size_bytes, bool is_write, uintptr_t site)
{
	const struct order_access access = {.to = (void *)(uintptr_t)to,
					    .size_bytes = size_bytes,
					    .site = site,
					    .is_write = is_write,
					    .is_plain = true};

	check(&access);
}
