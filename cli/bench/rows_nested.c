/* Rows of nested paging: faults of L2 and eager splitting of its mappings, against L1's own. */
#include <errno.h>
#include <stdlib.h>

#include "cli/bench/machine.h"
#include "src/shadow/shadow.h"

/* L1's tables are the first pages of its memory: a root, one table a level, 512 of the lowest. */
#define ROOT 0u
#define TABLE_1G 1u
#define TABLE_2M 2u
#define TABLES_4K 3u
/* L2's memory, at the same addresses as L1's: all but the block that the tables are in. */
#define FIRST UINT64_C(512)
#define L2_PAGES (GIB_PAGES - FIRST)

#define ENTRY UINT64_C(0x67) /* present, writable, user, A, D */
#define ENTRY_PS UINT64_C(0x80)
#define MANUAL_INITIALLY_SET 3u

enum nested_kind { NESTED_4K = MEMORY_SMALL, NESTED_2M = MEMORY_HUGE };

static u64 *page_at(struct machine *machine, u64 gfn)
{
	return (u64 *)(machine->memory + gfn * QUIRE_PAGE_SIZE);
}

/* The first gigabyte, mapped to itself. */
static void build_tables(struct machine *machine, enum nested_kind kind)
{
	page_at(machine, ROOT)[0] = TABLE_1G * QUIRE_PAGE_SIZE | ENTRY;
	page_at(machine, TABLE_1G)[0] = TABLE_2M * QUIRE_PAGE_SIZE | ENTRY;
	for (u64 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		if (kind == NESTED_2M) {
			page_at(machine, TABLE_2M)[i] = i << 21 | ENTRY | ENTRY_PS;
			continue;
		}
		page_at(machine, TABLE_2M)[i] = (TABLES_4K + i) * QUIRE_PAGE_SIZE | ENTRY;
		for (u64 j = 0; j < QUIRE_TABLE_ENTRIES; j++)
			page_at(machine, TABLES_4K + i)[j] = i << 21 | j << 12 | ENTRY;
	}
	for (u64 i = 1; i < QUIRE_TABLE_ENTRIES; i++)
		page_at(machine, ROOT)[i] = page_at(machine, TABLE_1G)[i] = 0;
}

static void nested_destroy(void *state)
{
	machine_destroy(state);
	free(state);
}

static int nested_setup(const struct bench_row *row, void **state)
{
	struct machine *machine = calloc(1, sizeof(*machine));
	int error;

	if (!machine)
		return -ENOMEM;
	error = machine_init_1g(machine, (enum memory_kind)row->param, 1, LEVEL_REAL);
	if (!error)
		error = quire_vm_set_manual_protect(machine->vm, MANUAL_INITIALLY_SET);
	if (!error)
		build_tables(machine, (enum nested_kind)row->param);
	if (error)
		nested_destroy(machine);
	else
		*state = machine;
	return error;
}

enum guest { L1, L2 };

static double fault_all(struct machine *machine, enum guest guest, u64 stride)
{
	const struct quire_nested tables = {.levels = 4, .nx = 1, .wp = 1};
	const struct faults faults = {
	    .first = FIRST,
	    .npages = L2_PAGES,
	    .stride = stride,
	    .error_code = FAULTS_MISSING,
	    .walks = guest == L2,
	};

	machine_zap(machine);
	if (quire_vcpu_set_nested(machine->vcpus[0], guest == L2 ? &tables : NULL))
		return -1;
	return machine_fault(machine, 0, &faults);
}

static double fault_l2(void *state)
{
	return fault_all(state, L2, 1);
}

static double fault_l1(void *state)
{
	return fault_all(state, L1, 1);
}

static double split_of(struct machine *machine, enum guest guest)
{
	if (fault_all(machine, guest, QUIRE_TABLE_ENTRIES) < 0 ||
	    quire_vm_stat(machine->vm, QUIRE_VM_STAT_pages_2m) != L2_PAGES / QUIRE_TABLE_ENTRIES)
		return -1;
	return machine_split(machine, L2_PAGES);
}

static double split_l2(void *state)
{
	return split_of(state, L2);
}

static double split_l1(void *state)
{
	return split_of(state, L1);
}

/* Heads of rmaps, and what objects were carved, beside the shadow tables. */
static double rmap_bytes(void *state)
{
	struct machine *machine = state;
	const struct shadow *shadow;
	u64 pages;

	if (fault_all(machine, L2, 1) < 0)
		return -1;
	shadow = shadow_of(machine->vm);
	pages = shadow->slabs.count;
	for (u32 level = 0; level < 3; level++)
		pages += shadow->rmaps[0][level].pages;
	return (double)(pages * QUIRE_PAGE_SIZE);
}

static double rmap_allowance(void *state)
{
	(void)state;
	return 10.0 * (double)L2_PAGES;
}

static const struct bench_row rows[] = {
    {
	.name = "nested_fault/1t",
	.floor_text = "L1's own faults on the same pages",
	.setup = nested_setup,
	.teardown = nested_destroy,
	.operation = fault_l2,
	.floor = fault_l1,
	.bound = 2.5,
	.operations = L2_PAGES,
	.param = NESTED_4K,
	.memory_bytes = GIB,
    },
    {
	.name = "nested_split/1GiB",
	.floor_text = "splitting L1's own mappings of the same memory",
	.setup = nested_setup,
	.teardown = nested_destroy,
	.operation = split_l2,
	.floor = split_l1,
	.bound = 4,
	.operations = 1,
	.param = NESTED_2M,
	.memory_bytes = GIB,
    },
    {
	.name = "nested_rmap_bytes/1GiB",
	.floor_text = "ten bytes a nested 4K mapping: what is allowed",
	.setup = nested_setup,
	.teardown = nested_destroy,
	.operation = rmap_bytes,
	.floor = rmap_allowance,
	.bound = 1,
	.operations = 1,
	.param = NESTED_4K,
	.memory_bytes = GIB,
	.rounds = 1,
	.is_in_bytes = 1,
    },
};

const struct bench_list bench_nested = {rows, sizeof(rows) / sizeof(rows[0])};
