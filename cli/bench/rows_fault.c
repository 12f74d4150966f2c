/* Rows of the fault path: populating, with one thread and with two, and the library's share. */
#include <errno.h>
#include <stdlib.h>

#include "cli/bench/floor.h"
#include "cli/bench/machine.h"

/* Fault rows that are too short for the clock are repeated within a round. */
#define REPEATS_2M 20u

struct populate {
	struct machine machine;
	struct floor_tables tables;
};

static void populate_destroy(void *state)
{
	struct populate *populate = state;

	machine_destroy(&populate->machine);
	floor_tables_destroy(&populate->tables);
	free(populate);
}

static int populate_setup(const struct bench_row *row, void **state)
{
	struct populate *populate = calloc(1, sizeof(*populate));
	int error;

	if (!populate)
		return -ENOMEM;
	error = machine_init_1g(&populate->machine, (enum memory_kind)row->param, BENCH_THREADS_MAX,
				LEVEL_REAL);
	if (!error)
		error = floor_tables_init(&populate->tables);
	if (error)
		populate_destroy(populate);
	else
		*state = populate;
	return error;
}

/* The page as page_get() finds it when it is there and may be written, but not touched. */
static int page_untouched(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	*page = (struct quire_page){.pfn = {hva.v >> QUIRE_PAGE_SHIFT}, .writable = 1};
	return 0;
}

static int library_setup(const struct bench_row *row, void **state)
{
	int error = populate_setup(row, state);

	if (!error)
		((struct populate *)*state)->machine.host.page_get = page_untouched;
	return error;
}

static double populate_one(void *state)
{
	struct populate *populate = state;

	machine_zap(&populate->machine);
	return machine_populate(&populate->machine);
}

/* What the library may take of an operation. */
static double library_allowance(void *state)
{
	return 80.0 * GIB_PAGES;
}

static double populate_two(void *state)
{
	struct populate *populate = state;

	machine_zap(&populate->machine);
	return machine_fault_parts(&populate->machine, FAULTS_MISSING);
}

static double populate_floor(void *state)
{
	struct populate *populate = state;

	return floor_populate(&populate->tables, populate->machine.memory);
}

static double populate_2m(void *state)
{
	struct faults faults = {.npages = GIB_PAGES, .stride = 512, .error_code = FAULTS_MISSING};
	struct populate *populate = state;
	double sum = 0;

	for (u32 i = 0; i < REPEATS_2M && sum >= 0; i++) {
		double took;

		machine_zap(&populate->machine);
		took = machine_fault(&populate->machine, 0, &faults);
		sum = took < 0 ? -1 : sum + took;
	}
	/* Were they huge? */
	return quire_vm_stat(populate->machine.vm, QUIRE_VM_STAT_pages_2m) == 512 ? sum : -1;
}

static double populate_2m_floor(void *state)
{
	struct populate *populate = state;
	double sum = 0;

	for (u32 i = 0; i < REPEATS_2M; i++)
		sum += floor_populate_2m(&populate->tables, populate->machine.memory);
	return sum;
}

static const struct bench_row rows[] = {
    {
	.name = "populate_4k/1t",
	.floor_text = "one touch of the page, one walk, one compare-exchange",
	.setup = populate_setup,
	.teardown = populate_destroy,
	.operation = populate_one,
	.floor = populate_floor,
	.bound = 12,
	.operations = GIB_PAGES,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
    },
    {
	.name = "populate_4k/library",
	.floor_text = "80 ns: what is allowed without the touch of the page",
	.setup = library_setup,
	.teardown = populate_destroy,
	.operation = populate_one,
	.floor = library_allowance,
	.bound = 1,
	.operations = GIB_PAGES,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
    },
    {
	.name = "populate_4k/2t",
	.floor_text = "populate_4k/1t",
	.setup = populate_setup,
	.teardown = populate_destroy,
	.operation = populate_two,
	.floor = populate_one,
	.bound = 1.15,
	.operations = GIB_PAGES,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
    },
    {
	.name = "populate_2m/1t",
	.floor_text = "one touch of the page, one walk, one compare-exchange",
	.setup = populate_setup,
	.teardown = populate_destroy,
	.operation = populate_2m,
	.floor = populate_2m_floor,
	.operations = (u64)REPEATS_2M * 512,
	.param = MEMORY_HUGE,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_fault = {rows, sizeof(rows) / sizeof(rows[0])};
