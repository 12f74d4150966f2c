/* The longest exclusive hold of mmu_lock. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench/machine.h"

/* A guest of 16 GiB: 2 GiB of memory, shown by eight slots. */
#define SLOTS 8u
#define SLOT_BYTES (2 * GIB)
#define SLOT_PAGES (SLOT_BYTES / QUIRE_PAGE_SIZE)

/*
 * The linker hands the library's calls of the lock to these (option --wrap). Only the thread that
 * watches pays for it; acknowledgements waited for within a hold are counted apart.
 */
static _Thread_local struct {
	double longest;	    /* without the waits */
	double start, wait; /* of the hold that goes on; 0 outside of one */
	unsigned int watching;
} hold;

void lock_taken(struct biglock *lock) __asm__("__wrap_biglock_write_lock");
void lock_dropped(struct biglock *lock) __asm__("__wrap_biglock_write_unlock");
void debt_paid(struct flush_debt *debt) __asm__("__wrap_flush_debt_pay");
void real_lock(struct biglock *lock) __asm__("__real_biglock_write_lock");
void real_unlock(struct biglock *lock) __asm__("__real_biglock_write_unlock");
void real_pay(struct flush_debt *debt) __asm__("__real_flush_debt_pay");

void lock_taken(struct biglock *lock)
{
	real_lock(lock);
	if (!hold.watching)
		return;
	hold.wait = 0;
	hold.start = bench_now();
}

void lock_dropped(struct biglock *lock)
{
	if (hold.watching) {
		double took = bench_now() - hold.start - hold.wait;

		hold.longest = took > hold.longest ? took : hold.longest;
		hold.start = 0;
	}
	real_unlock(lock);
}

/* Within a hold, this waits for the vCPUs. */
void debt_paid(struct flush_debt *debt)
{
	double start = hold.start > 0 ? bench_now() : 0;

	real_pay(debt);
	if (start > 0)
		hold.wait += bench_now() - start;
}

struct holds {
	struct machine machine;
	u64 words[SLOT_PAGES / 64];
};

static void holds_destroy(void *state)
{
	struct holds *holds = state;

	machine_destroy(&holds->machine);
	free(holds);
}

static int set_slot(struct holds *holds, u32 slot, u32 flags, u64 size_bytes)
{
	struct quire_region region = {
	    .slot = slot,
	    .flags = flags,
	    .gpa = {slot * SLOT_BYTES},
	    .size_bytes = size_bytes,
	    .hva = {(u64)(uintptr_t)holds->machine.memory},
	};

	return quire_vm_set_region(holds->machine.vm, &region);
}

static int set_slots(struct holds *holds, u32 flags, u64 size_bytes)
{
	int error = 0;

	for (u32 slot = 0; slot < SLOTS && !error; slot++)
		error = set_slot(holds, slot, flags, size_bytes);
	return error;
}

/* param: the VM's type. */
static int holds_setup(const struct bench_row *row, void **state)
{
	struct holds *holds = calloc(1, sizeof(*holds));
	int error;

	if (!holds)
		return -ENOMEM;
	error = machine_init(&holds->machine, (enum quire_vm_type)row->param, 1, LEVEL_REAL);
	holds->machine.memory = memory_get(MEMORY_SMALL, SLOT_BYTES);
	holds->machine.npages = SLOT_PAGES;
	if (!error && !holds->machine.memory)
		error = -ENOMEM;
	if (!error)
		error = set_slots(holds, 0, SLOT_BYTES);
	if (error)
		holds_destroy(holds);
	else
		*state = holds;
	return error;
}

static int populate(struct holds *holds)
{
	struct faults faults = {
	    .npages = SLOTS * SLOT_PAGES, .stride = 1, .error_code = FAULTS_MISSING};

	return machine_fault(&holds->machine, 0, &faults) < 0 ? -EIO : 0;
}

static int copy_out(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	memcpy((uint8_t *)ctx + offset_bytes, src, size_bytes);
	return 0;
}

static int harvest(struct holds *holds)
{
	int error = 0;

	for (u32 slot = 0; slot < SLOTS && !error; slot++)
		error = quire_vm_get_dirty_log(holds->machine.vm, slot, copy_out, holds->words);
	return error;
}

/* All pages of one slot, and one in eight words of the log of the others. */
static int write_pages(struct holds *holds)
{
	struct faults dense = {.npages = SLOT_PAGES, .stride = 1, .error_code = FAULTS_PROTECTED};
	struct faults sparse = {.first = SLOT_PAGES,
				.npages = (SLOTS - 1) * SLOT_PAGES,
				.stride = 512,
				.error_code = FAULTS_PROTECTED};
	int failed = machine_fault(&holds->machine, 0, &dense) < 0;

	return failed || machine_fault(&holds->machine, 0, &sparse) < 0 ? -EIO : 0;
}

static int delete_slots(struct holds *holds)
{
	int error = set_slots(holds, 0, 0);

	return error ? error : set_slots(holds, 0, SLOT_BYTES);
}

/* The whole guest becomes private, which takes its shared mappings away, and shared again. */
static int convert(struct holds *holds)
{
	struct quire_vm *vm = holds->machine.vm;
	u64 size_bytes = SLOTS * SLOT_BYTES;
	int error;

	if (!quire_vm_attributes(vm))
		return 0;
	error = quire_vm_set_attributes(vm, (gpa_t){0}, size_bytes, QUIRE_ATTRIBUTE_PRIVATE);
	return error ? error : quire_vm_set_attributes(vm, (gpa_t){0}, size_bytes, 0);
}

/* Every operation that changes all of the guest's mappings, each on a populated guest. */
static int everything(struct holds *holds)
{
	int error = populate(holds);

	hold.watching = 1;
	if (!error)
		error = set_slots(holds, QUIRE_SLOT_LOG_DIRTY, SLOT_BYTES);
	if (!error)
		error = write_pages(holds);
	if (!error)
		error = harvest(holds);
	if (!error)
		error = set_slots(holds, 0, SLOT_BYTES);
	if (!error)
		machine_zap(&holds->machine);
	if (!error)
		error = populate(holds);
	if (!error)
		error = convert(holds);
	if (!error)
		error = populate(holds);
	if (!error)
		error = delete_slots(holds);
	hold.watching = 0;
	return error;
}

static double longest_hold(void *state)
{
	hold.longest = 0;
	return everything(state) ? -1 : hold.longest;
}

static double hold_allowance(void *state)
{
	return 100000;
}

static const struct bench_row rows[] = {
    {
	.name = "lock_hold_max/16GiB",
	.floor_text = "100 us: what is allowed",
	.setup = holds_setup,
	.teardown = holds_destroy,
	.operation = longest_hold,
	.floor = hold_allowance,
	.bound = 1,
	.operations = 1,
	.param = QUIRE_VM_SW_PROTECTED,
	.memory_bytes = 2 * GIB,
	.rounds = 3,
    },
};

const struct bench_list bench_locks = {rows, sizeof(rows) / sizeof(rows[0])};
