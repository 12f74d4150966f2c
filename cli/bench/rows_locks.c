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
 * Where L2 runs, L1 maps all of it to itself with 4K entries. Its tables are the first pages of its
 * memory: a root, one table of 1 GiB entries, one of 2 MiB entries for each GiB, the lowest.
 */
#define NESTED_GIB (SLOTS * SLOT_BYTES / GIB)
#define ROOT UINT64_C(0)
#define TABLE_1G UINT64_C(1)
#define TABLES_2M UINT64_C(2)
#define TABLES_4K (TABLES_2M + NESTED_GIB)
#define TABLES_END (TABLES_4K + NESTED_GIB * QUIRE_TABLE_ENTRIES)
#define ENTRY UINT64_C(0x67) /* present, writable, user, A, D */

/* Of a round of lock_hold_nested, which has most: some 100,000. */
#define HOLDS_MAX (1u << 18)

/*
 * The linker hands the library's calls of the lock to these (option --wrap). Only the thread that
 * watches pays for it; acknowledgements waited for within a hold are counted apart.
 */
static _Thread_local struct {
	double *took;	    /* of each hold of this round, without the waits */
	u32 count;	    /* of them */
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
		if (hold.count < HOLDS_MAX)
			hold.took[hold.count] = bench_now() - hold.start - hold.wait;
		hold.count++;
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

enum holds_kind { HOLDS_TDP, HOLDS_NESTED };

struct holds {
	struct machine machine;
	u64 first; /* gfn that the guest touches */
	u32 count; /* holds of a round; 0: none has ended */
	double took[HOLDS_MAX], least[HOLDS_MAX];
	u64 words[SLOT_PAGES / 64];
};

static void holds_destroy(void *state)
{
	struct holds *holds = state;

	machine_destroy(&holds->machine);
	free(holds);
}

static int set_slots(struct holds *holds, u32 flags, u64 size_bytes)
{
	int error = 0;

	for (u32 slot = 0; slot < SLOTS && !error; slot++)
		error = machine_set_slot(&holds->machine, slot, flags, size_bytes);
	return error;
}

static u64 *table_at(struct holds *holds, u64 gfn)
{
	return (u64 *)(holds->machine.memory + gfn * QUIRE_PAGE_SIZE);
}

static int start_nested(struct holds *holds)
{
	const struct quire_nested tables = {.levels = 4, .nx = 1, .wp = 1};

	table_at(holds, ROOT)[0] = TABLE_1G * QUIRE_PAGE_SIZE | ENTRY;
	for (u64 i = 1; i < QUIRE_TABLE_ENTRIES; i++)
		table_at(holds, ROOT)[i] = table_at(holds, TABLE_1G)[i] = 0;
	for (u64 gib = 0; gib < NESTED_GIB; gib++)
		table_at(holds, TABLE_1G)[gib] = (TABLES_2M + gib) * QUIRE_PAGE_SIZE | ENTRY;
	/* Tables of a level follow one another, so their entries count on. */
	for (u64 i = 0; i < NESTED_GIB * QUIRE_TABLE_ENTRIES; i++)
		table_at(holds, TABLES_2M)[i] = (TABLES_4K + i) * QUIRE_PAGE_SIZE | ENTRY;
	for (u64 i = 0; i < SLOTS * SLOT_PAGES; i++)
		table_at(holds, TABLES_4K)[i] = i * QUIRE_PAGE_SIZE | ENTRY;
	holds->first = round_up_u64(TABLES_END, QUIRE_TABLE_ENTRIES);
	return quire_vcpu_set_nested(holds->machine.vcpus[0], &tables);
}

/* param: an enum holds_kind. */
static int holds_setup(const struct bench_row *row, void **state)
{
	struct holds *holds = calloc(1, sizeof(*holds));
	int error;

	if (!holds)
		return -ENOMEM;
	error = machine_init(&holds->machine,
			     row->param == HOLDS_TDP ? QUIRE_VM_SW_PROTECTED : QUIRE_VM_DEFAULT, 1,
			     LEVEL_REAL);
	holds->machine.memory = memory_get(MEMORY_SMALL, SLOT_BYTES);
	holds->machine.npages = SLOT_PAGES;
	if (!error && !holds->machine.memory)
		error = -ENOMEM;
	if (!error)
		error = set_slots(holds, 0, SLOT_BYTES);
	if (!error && row->param == HOLDS_NESTED)
		error = start_nested(holds);
	if (error)
		holds_destroy(holds);
	else
		*state = holds;
	return error;
}

static int populate(struct holds *holds)
{
	struct faults faults = {.first = holds->first,
				.npages = SLOTS * SLOT_PAGES - holds->first,
				.stride = 1,
				.walks = true,
				.error_code = FAULTS_MISSING};

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
	struct faults dense = {.first = holds->first,
			       .npages = SLOT_PAGES - holds->first,
			       .stride = 1,
			       .error_code = FAULTS_PROTECTED};
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

/*
 * The whole guest becomes private, which takes its shared mappings away, and shared again. Memory
 * that cannot be private goes as it is.
 */
static int convert(struct holds *holds)
{
	struct quire_vm *vm = holds->machine.vm;
	u64 size_bytes = SLOTS * SLOT_BYTES;
	int error;

	if (!quire_vm_attributes(vm)) {
		machine_zap(&holds->machine);
		return 0;
	}
	error = quire_vm_set_attributes(vm, (gpa_t){0}, size_bytes, QUIRE_ATTRIBUTE_PRIVATE);
	return error ? error : quire_vm_set_attributes(vm, (gpa_t){0}, size_bytes, 0);
}

static int log_all(struct holds *holds)
{
	return set_slots(holds, QUIRE_SLOT_LOG_DIRTY, SLOT_BYTES);
}

static int log_none(struct holds *holds)
{
	return set_slots(holds, 0, SLOT_BYTES);
}

static int zap(struct holds *holds)
{
	machine_zap(&holds->machine);
	return 0;
}

/*
 * Every operation that changes all of the guest's mappings, each on a populated guest. The faults
 * between them are not watched: nested ones hold the lock for a second in all, so that whatever
 * interrupts this thread comes within one.
 */
static int everything(struct holds *holds)
{
	static const struct {
		int (*prepare)(struct holds *holds);
		int (*change)(struct holds *holds);
	} steps[] = {
	    {populate, log_all}, {write_pages, harvest}, {NULL, log_none},
	    {NULL, zap},	 {populate, convert},	 {populate, delete_slots},
	};
	int error = 0;

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && !error; i++) {
		error = steps[i].prepare ? steps[i].prepare(holds) : 0;
		hold.watching = 1;
		if (!error)
			error = steps[i].change(holds);
		hold.watching = 0;
	}
	return error;
}

/*
 * The holds of a round are the same work in every round, and what interrupts the machine meets
 * others each time: of 100,000 it always meets some. So the figure of a hold is the least that it
 * took in any round, and that of the row the longest of these.
 */
static double longest_hold(void *state)
{
	struct holds *holds = state;
	double longest = 0;
	int error;

	hold.took = holds->took;
	hold.count = 0;
	error = everything(holds);
	if (error || hold.count > HOLDS_MAX || (holds->count && holds->count != hold.count))
		return -1;
	for (u32 i = 0; i < hold.count; i++) {
		if (!holds->count || holds->took[i] < holds->least[i])
			holds->least[i] = holds->took[i];
		longest = holds->least[i] > longest ? holds->least[i] : longest;
	}
	holds->count = hold.count;
	return longest;
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
	.param = HOLDS_TDP,
	.memory_bytes = 2 * GIB,
	.rounds = 3,
    },
    {
	.name = "lock_hold_nested/16GiB",
	.floor_text = "100 us: what is allowed",
	.setup = holds_setup,
	.teardown = holds_destroy,
	.operation = longest_hold,
	.floor = hold_allowance,
	.bound = 1,
	.operations = 1,
	.param = HOLDS_NESTED,
	.memory_bytes = 2 * GIB,
	.rounds = 3,
    },
};

const struct bench_list bench_locks = {rows, sizeof(rows) / sizeof(rows[0])};
