/* Rows of guest_memfd and of the attributes: first touch, punch, conversion. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cli/bench/floor.h"
#include "cli/bench/machine.h"

/* A VM whose 1 GiB is in a guest_memfd, and beside it plain memory of the same kind. */
struct private_machine {
	struct machine machine;
	struct process_store store;
	struct quire_gmem *gmem;
	uint8_t *plain;
	struct floor_tables tables;
};

static void private_destroy(void *state)
{
	struct private_machine *private = state;

	if (private->gmem)
		quire_gmem_release(private->gmem);
	machine_destroy(&private->machine);
	if (private->store.base)
		munmap(private->store.base, GIB);
	if (private->plain)
		munmap(private->plain, GIB);
	floor_tables_destroy(&private->tables);
	free(private);
}

/* Slot 0: the guest_memfd, and for shared pages the memory that rows share. */
static int private_slot(struct private_machine *private)
{
	struct machine *machine = &private->machine;
	struct quire_region region = {.flags = QUIRE_SLOT_GMEM, .size_bytes = GIB};
	int error;

	machine->memory = memory_get(MEMORY_SMALL, GIB);
	if (!machine->memory)
		return -ENOMEM;
	machine->npages = GIB_PAGES;
	error = memfd_memory(GIB, (uint8_t **)&private->store.base);
	if (error)
		return error;
	private->store.size_bytes = GIB;
	private->store.born_zero = true;
	error = quire_gmem_create(machine->vm, GIB, 0, &private->store, &private->gmem);
	if (error)
		return error;
	region.hva.v = (u64)(uintptr_t)machine->memory;
	region.gmem = private->gmem;
	return quire_vm_set_region(machine->vm, &region);
}

static int private_setup(const struct bench_row *row, void **state)
{
	struct private_machine *private = calloc(1, sizeof(*private));
	int error;

	if (!private)
		return -ENOMEM;
	error = machine_init(&private->machine, QUIRE_VM_SW_PROTECTED, 1, LEVEL_REAL);
	if (!error)
		error = private_slot(private);
	if (!error)
		error = memfd_memory(GIB, &private->plain);
	if (!error)
		error = floor_tables_init(&private->tables);
	if (error)
		private_destroy(private);
	else
		*state = private;
	return error;
}

static int make(struct private_machine *private, u64 attributes)
{
	return quire_vm_set_attributes(private->machine.vm, (gpa_t){0}, GIB, attributes);
}

static double touch_guest(void *state)
{
	struct private_machine *private = state;
	double took;

	if (make(private, QUIRE_ATTRIBUTE_PRIVATE))
		return -1;
	took = machine_populate(&private->machine);
	return quire_gmem_punch(private->gmem, 0, GIB) ? -1 : took;
}

static double touch_all(uint8_t *memory)
{
	double start = bench_now();

	for (u64 at = 0; at < GIB; at += QUIRE_PAGE_SIZE)
		((volatile uint8_t *)memory)[at] = 1;
	return bench_now() - start;
}

static double touch_plain(void *state)
{
	struct private_machine *private = state;
	double took = touch_all(private->plain);

	return madvise(private->plain, GIB, MADV_REMOVE) ? -1 : took;
}

static double punch_guest(void *state)
{
	struct private_machine *private = state;
	double start;

	if (make(private, QUIRE_ATTRIBUTE_PRIVATE) || machine_populate(&private->machine) < 0)
		return -1;
	start = bench_now();
	return quire_gmem_punch(private->gmem, 0, GIB) ? -1 : bench_now() - start;
}

static double punch_plain(void *state)
{
	struct private_machine *private = state;
	double start;

	touch_all(private->plain);
	start = bench_now();
	return madvise(private->plain, GIB, MADV_REMOVE) ? -1 : bench_now() - start;
}

static double convert_one(struct private_machine *private, u64 attributes)
{
	double start;

	if (machine_populate(&private->machine) < 0)
		return -1;
	start = bench_now();
	return make(private, attributes) ? -1 : bench_now() - start;
}

static double convert_both(void *state)
{
	double there, back;

	there = convert_one(state, QUIRE_ATTRIBUTE_PRIVATE);
	back = convert_one(state, 0);
	return there < 0 || back < 0 ? -1 : there + back;
}

static double convert_floor(void *state)
{
	struct private_machine *private = state;

	return floor_read_pass(&private->tables) + floor_read_pass(&private->tables);
}

static const struct bench_row rows[] = {
    {
	.name = "gmem_first_touch/1GiB",
	.floor_text = "the program's own first touch of a shared memfd mapping",
	.setup = private_setup,
	.teardown = private_destroy,
	.operation = touch_guest,
	.floor = touch_plain,
	.bound = 1.15,
	.operations = GIB_PAGES,
	.memory_bytes = 3 * GIB,
	.rounds = 3,
    },
    {
	.name = "gmem_punch/1GiB",
	.floor_text = "the host's own hole punch (MADV_REMOVE) of a touched shared memfd mapping",
	.setup = private_setup,
	.teardown = private_destroy,
	.operation = punch_guest,
	.floor = punch_plain,
	.bound = 1.15,
	.operations = 1,
	.memory_bytes = 3 * GIB,
	.rounds = 3,
    },
    {
	.name = "convert/1GiB",
	.floor_text = "every entry of 512 tables read, one at a time, twice",
	.setup = private_setup,
	.teardown = private_destroy,
	.operation = convert_both,
	.floor = convert_floor,
	.bound = 5,
	.operations = 1,
	.memory_bytes = 2 * GIB,
    },
};

const struct bench_list bench_gmem = {rows, sizeof(rows) / sizeof(rows[0])};
