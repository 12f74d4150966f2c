/* Rows of the memslots: looking one up, and making and deleting many. */
#include <errno.h>
#include <stdlib.h>

#include "cli/bench/machine.h"
#include "src/base/reclaim.h"

#define SLOT_PAGES 16u
#define SLOT_BYTES (SLOT_PAGES * QUIRE_PAGE_SIZE)
#define LOOKUPS 1000000u
#define GFNS 65536u /* random ones, made beforehand; a power of two */

/* An address that slots may claim: no test touches it. */
#define HVA_BASE (UINT64_C(1) << 40)

static int slot_set(struct quire_vm *vm, u32 id, u64 size_bytes)
{
	struct quire_region region = {
	    .slot = id,
	    .gpa = {id * SLOT_BYTES},
	    .size_bytes = size_bytes,
	    .hva = {HVA_BASE + id * SLOT_BYTES},
	};

	return quire_vm_set_region(vm, &region);
}

static int slots_add(struct quire_vm *vm, u64 count)
{
	int error = 0;

	for (u32 id = 0; id < count && !error; id++)
		error = slot_set(vm, id, SLOT_BYTES);
	return error;
}

static int slots_delete(struct quire_vm *vm, u64 count)
{
	int error = 0;

	for (u32 id = 0; id < count && !error; id++)
		error = slot_set(vm, id, 0);
	return error;
}

/* A VM with few slots beside one with as many as the row says. */
struct lookups {
	struct machine few, many;
	u64 count;
	u64 few_gfns[GFNS], many_gfns[GFNS];
};

#define FEW 4u

static void lookups_destroy(void *state)
{
	struct lookups *lookups = state;

	machine_destroy(&lookups->few);
	machine_destroy(&lookups->many);
	free(lookups);
}

static int lookups_setup(const struct bench_row *row, void **state)
{
	struct lookups *lookups = calloc(1, sizeof(*lookups));
	u64 random = 1;
	int error;

	if (!lookups)
		return -ENOMEM;
	lookups->count = row->param;
	for (u32 i = 0; i < GFNS; i++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		lookups->few_gfns[i] = (random >> 33) % (FEW * SLOT_PAGES);
		lookups->many_gfns[i] = (random >> 33) % (row->param * SLOT_PAGES);
	}
	error = machine_init(&lookups->few, QUIRE_VM_DEFAULT, 0, LEVEL_REAL);
	if (!error)
		error = machine_init(&lookups->many, QUIRE_VM_DEFAULT, 0, LEVEL_REAL);
	if (!error)
		error = slots_add(lookups->few.vm, FEW);
	if (!error)
		error = slots_add(lookups->many.vm, row->param);
	if (error)
		lookups_destroy(lookups);
	else
		*state = lookups;
	return error;
}

static double lookup_all(const struct quire_vm *vm, const u64 *gfns)
{
	u64 found = 0;
	double start;

	reclaim_enter();
	start = bench_now();
	for (u32 i = 0; i < LOOKUPS; i++)
		found += memslot_lookup(vm, 0, (gfn_t){gfns[i % GFNS]}, NULL) != NULL;
	start = bench_now() - start;
	reclaim_leave();
	return found == LOOKUPS ? start : -1;
}

static double lookup_many(void *state)
{
	struct lookups *lookups = state;

	return lookup_all(lookups->many.vm, lookups->many_gfns);
}

static double lookup_few(void *state)
{
	struct lookups *lookups = state;

	return lookup_all(lookups->few.vm, lookups->few_gfns);
}

/* The loads of four slots' bounds, one slot after the other. */
static double lookup_linear(void *state)
{
	static volatile u64 bases[FEW] = {0, SLOT_PAGES, UINT64_C(2) * SLOT_PAGES,
					  UINT64_C(3) * SLOT_PAGES};
	struct lookups *lookups = state;
	u64 found = 0;
	double start = bench_now();

	for (u32 i = 0; i < LOOKUPS; i++)
		for (u32 slot = 0; slot < FEW; slot++)
			found += lookups->few_gfns[i % GFNS] - bases[slot] < SLOT_PAGES;
	return found == LOOKUPS ? bench_now() - start : -1;
}

struct churn {
	struct machine machine;
	u64 count;
};

static void churn_destroy(void *state)
{
	struct churn *churn = state;

	machine_destroy(&churn->machine);
	free(churn);
}

static int churn_setup(const struct bench_row *row, void **state)
{
	struct churn *churn = calloc(1, sizeof(*churn));
	int error;

	if (!churn)
		return -ENOMEM;
	churn->count = row->param;
	error = machine_init(&churn->machine, QUIRE_VM_DEFAULT, 0, LEVEL_REAL);
	if (error)
		churn_destroy(churn);
	else
		*state = churn;
	return error;
}

static double churn_pass(struct quire_vm *vm, u64 count)
{
	double start = bench_now();

	if (slots_add(vm, count) || slots_delete(vm, count))
		return -1;
	return bench_now() - start;
}

static double churn_all(void *state)
{
	struct churn *churn = state;

	return churn_pass(churn->machine.vm, churn->count);
}

static double churn_4096(void *state)
{
	struct churn *churn = state;

	return churn_pass(churn->machine.vm, 4096);
}

/* A slot's description is allocated, written and freed: nothing is looked up or kept in order. */
static double churn_allocations(void *state)
{
	static struct memslot *slots[QUIRE_USER_SLOTS];
	struct churn *churn = state;
	struct quire_region region = {.size_bytes = SLOT_BYTES};
	double start = bench_now();

	for (u32 id = 0; id < churn->count; id++) {
		region.slot = id;
		slots[id] = memslot_alloc(churn->machine.vm, &region);
	}
	for (u32 id = 0; id < churn->count; id++)
		memslot_free(churn->machine.vm, slots[id]);
	return bench_now() - start;
}

static const struct bench_row rows[] = {
    {
	.name = "slot_lookup/4",
	.floor_text = "the bounds of four slots read one after the other",
	.setup = lookups_setup,
	.teardown = lookups_destroy,
	.operation = lookup_few,
	.floor = lookup_linear,
	.operations = LOOKUPS,
	.param = FEW,
    },
    {
	.name = "slot_lookup/32764",
	.floor_text = "slot_lookup/4",
	.setup = lookups_setup,
	.teardown = lookups_destroy,
	.operation = lookup_many,
	.floor = lookup_few,
	.bound = 3,
	.operations = LOOKUPS,
	.param = QUIRE_USER_SLOTS,
    },
    {
	.name = "slot_churn/4096",
	.floor_text = "the slots' descriptions allocated and freed",
	.setup = churn_setup,
	.teardown = churn_destroy,
	.operation = churn_all,
	.floor = churn_allocations,
	.operations = 1,
	.param = 4096,
    },
    {
	.name = "slot_churn/32764",
	.floor_text = "slot_churn/4096",
	.setup = churn_setup,
	.teardown = churn_destroy,
	.operation = churn_all,
	.floor = churn_4096,
	.bound = 12,
	.operations = 1,
	.param = QUIRE_USER_SLOTS,
    },
};

const struct bench_list bench_slots = {rows, sizeof(rows) / sizeof(rows[0])};
