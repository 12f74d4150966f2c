/* What a vCPU waits for with its first writes after a log has started. */
#include <errno.h>
#include <stdlib.h>

#include "cli/bench/machine.h"

/* A guest of 8 GiB in huge pages: 2 GiB of memory, shown by four slots. */
#define SLOTS 4u
#define SLOT_BYTES (2 * GIB)
#define BLOCKS (SLOTS * SLOT_BYTES / QUIRE_PAGE_SIZE / QUIRE_TABLE_ENTRIES)
/*
 * The longest that are left out: what interrupts this machine comes within one. In one of 64 the
 * kernel brings a page of the bitmap in besides.
 */
#define LEFT_OUT (BLOCKS / 20)

/* Which thread splits the huge pages, and when. */
enum splitter {
	SPLIT_BY_VCPU,	/* each first write */
	SPLIT_BY_START, /* eager_page_split: the call that starts the log */
	SPLIT_AHEAD,	/* quire_vm_split(), before */
};

struct stall {
	struct machine machine;
	enum splitter splitter;
	double took[BLOCKS];
};

static void stall_destroy(void *state)
{
	struct stall *stall = state;

	machine_destroy(&stall->machine);
	free(stall);
}

static int set_slots(struct stall *stall, u32 flags)
{
	int error = 0;

	for (u32 slot = 0; slot < SLOTS && !error; slot++)
		error = machine_set_slot(&stall->machine, slot, flags, SLOT_BYTES);
	return error;
}

/* param: an enum splitter. */
static int stall_setup(const struct bench_row *row, void **state)
{
	struct stall *stall = calloc(1, sizeof(*stall));
	int error;

	if (!stall)
		return -ENOMEM;
	stall->splitter = (enum splitter)row->param;
	error = machine_init(&stall->machine, QUIRE_VM_DEFAULT, 1, LEVEL_REAL);
	stall->machine.memory = memory_get(MEMORY_HUGE, SLOT_BYTES);
	stall->machine.npages = SLOT_BYTES / QUIRE_PAGE_SIZE;
	if (!error && !stall->machine.memory)
		error = -ENOMEM;
	if (error)
		stall_destroy(stall);
	else
		*state = stall;
	return error;
}

static int map_huge(struct stall *stall)
{
	struct faults faults = {.npages = BLOCKS * QUIRE_TABLE_ENTRIES,
				.stride = QUIRE_TABLE_ENTRIES,
				.error_code = FAULTS_MISSING};

	if (set_slots(stall, 0))
		return -1;
	machine_zap(&stall->machine);
	if (machine_fault(&stall->machine, 0, &faults) < 0)
		return -1;
	return quire_vm_stat(stall->machine.vm, QUIRE_VM_STAT_pages_2m) == BLOCKS ? 0 : -1;
}

static int split_all(struct stall *stall)
{
	u64 done;

	for (u64 at = 0; at < SLOTS * SLOT_BYTES; at += done)
		if (quire_vm_split(stall->machine.vm, 0, (gpa_t){at}, SLOTS * SLOT_BYTES - at,
				   &done))
			return -1;
	return 0;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The longest first write of page @page of a block, but for a twentieth of them. */
static double longest_write(struct stall *stall, u64 page)
{
	for (u64 i = 0; i < BLOCKS; i++) {
		struct faults faults = {.first = i * QUIRE_TABLE_ENTRIES + page,
					.npages = 1,
					.stride = 1,
					.error_code = FAULTS_PROTECTED};

		stall->took[i] = machine_fault(&stall->machine, 0, &faults);
		if (stall->took[i] < 0)
			return -1;
	}
	qsort(stall->took, BLOCKS, sizeof(stall->took[0]), compare);
	return stall->took[BLOCKS - 1 - LEFT_OUT];
}

static double stall_first(void *state)
{
	struct stall *stall = state;

	stall->machine.tunables.eager_page_split = stall->splitter == SPLIT_BY_START;
	if (map_huge(stall) || (stall->splitter == SPLIT_AHEAD && split_all(stall)) ||
	    set_slots(stall, QUIRE_SLOT_LOG_DIRTY))
		return -1;
	return longest_write(stall, 0);
}

/* By now all blocks are split. */
static double stall_floor(void *state)
{
	return longest_write(state, 1);
}

#define STALL_ROW(title, splits, highest)                                                      \
	{                                                                                      \
		.name = (title), .floor_text = "the longest first write of a page that is 4K", \
		.setup = stall_setup, .teardown = stall_destroy, .operation = stall_first,     \
		.floor = stall_floor, .bound = (highest), .operations = 1, .param = (splits),  \
		.memory_bytes = 2 * GIB                                                        \
	}

static const struct bench_row rows[] = {
    STALL_ROW("log_stall/lazy", SPLIT_BY_VCPU, 0),
    STALL_ROW("log_stall/eager", SPLIT_BY_START, 2),
    STALL_ROW("log_stall/ahead", SPLIT_AHEAD, 2),
};

const struct bench_list bench_stall = {rows, sizeof(rows) / sizeof(rows[0])};
