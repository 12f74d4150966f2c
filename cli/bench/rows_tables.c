/* Rows of the tables: their size, taking them away, splitting and recovering huge leaves. */
#include <errno.h>
#include <stdlib.h>

#include "cli/bench/floor.h"
#include "cli/bench/machine.h"

#define LEAVES_2M 512u
/* With all bits set from the start, huge leaves are split by the CLEAR, and by nothing else. */
#define MANUAL_INITIALLY_SET 3u

struct tables {
	struct machine machine;
	struct floor_tables floor;
	enum memory_kind kind;
	enum machine_level level;
	u64 bytes_before;
};

static void tables_destroy(void *state)
{
	struct tables *tables = state;

	machine_destroy(&tables->machine);
	floor_tables_destroy(&tables->floor);
	free(tables);
}

static int tables_make(struct tables *tables)
{
	int error;

	if (!memory_get(tables->kind, GIB))
		return -ENOMEM;
	tables->bytes_before = process_bytes_allocated();
	error = machine_init_1g(&tables->machine, tables->kind, 1, tables->level);
	return error ? error : floor_tables_init(&tables->floor);
}

/* param: the memory's kind, and 256 for leaves of 1 GiB. */
#define PARAM_1G 256u

static int tables_setup(const struct bench_row *row, void **state)
{
	struct tables *tables = calloc(1, sizeof(*tables));
	int error;

	if (!tables)
		return -ENOMEM;
	tables->kind = (enum memory_kind)(row->param % PARAM_1G);
	tables->level = row->param & PARAM_1G ? LEVEL_CLAIM_1G : LEVEL_REAL;
	error = tables_make(tables);
	if (error)
		tables_destroy(tables);
	else
		*state = tables;
	return error;
}

/* What the library keeps for the VM beside table memory, all of it mapped 4K. */
static double metadata_bytes(void *state)
{
	struct tables *tables = state;
	u64 chunks, now;

	if (machine_populate(&tables->machine) < 0)
		return -1;
	chunks = tables->machine.vm->arena.chunk_count * CHUNK_BYTES;
	now = process_bytes_allocated() - tables->bytes_before;
	return (double)(now - chunks);
}

static double metadata_allowance(void *state)
{
	return (double)GIB / 1000;
}

/* Table pages in the tree, with their descriptors; not what is kept free for later. */
static double table_bytes(void *state)
{
	struct tables *tables = state;
	u64 in_tree;

	if (machine_populate(&tables->machine) < 0)
		return -1;
	in_tree = tables->machine.vm->arena.used - tables->machine.vcpus[0]->tables.count;
	return (double)(in_tree * (QUIRE_PAGE_SIZE + sizeof(struct table)));
}

/* One root, one table at each level above, and one for every 2 MiB. */
static double table_bytes_needed(void *state)
{
	return (double)((3 + LEAVES_2M) * QUIRE_PAGE_SIZE);
}

static double zap_all_4k(void *state)
{
	struct tables *tables = state;
	double start;

	if (machine_populate(&tables->machine) < 0)
		return -1;
	start = bench_now();
	machine_zap(&tables->machine);
	return bench_now() - start;
}

static double zap_floor(void *state)
{
	struct tables *tables = state;

	return floor_read_pass(&tables->floor);
}

static u64 stat(const struct tables *tables, enum quire_vm_stat which)
{
	return quire_vm_stat(tables->machine.vm, which);
}

/* Fresh huge leaves, of the level that the row wants. */
static int map_huge(struct tables *tables)
{
	bool is_1g = tables->level == LEVEL_CLAIM_1G;
	struct faults faults = {
	    .npages = GIB_PAGES,
	    .stride = is_1g ? GIB_PAGES : LEAVES_2M,
	    .error_code = FAULTS_MISSING,
	};

	machine_zap(&tables->machine);
	if (machine_fault(&tables->machine, 0, &faults) < 0)
		return -1;
	if (is_1g)
		return stat(tables, QUIRE_VM_STAT_pages_1g) == 1 ? 0 : -1;
	return stat(tables, QUIRE_VM_STAT_pages_2m) == LEAVES_2M ? 0 : -1;
}

static double split_all(void *state)
{
	struct tables *tables = state;

	if (quire_vm_set_manual_protect(tables->machine.vm, MANUAL_INITIALLY_SET) ||
	    map_huge(tables))
		return -1;
	return machine_split(&tables->machine, GIB_PAGES);
}

static double split_floor(void *state)
{
	struct tables *tables = state;

	return floor_write_pass(&tables->floor);
}

static double vector_floor(void *state)
{
	struct tables *tables = state;

	return floor_vector_pass(&tables->floor);
}

/* The split alone, ahead of a log. */
static double split_ahead(void *state)
{
	struct tables *tables = state;
	double start;
	u64 done;

	if (map_huge(tables))
		return -1;
	start = bench_now();
	if (quire_vm_split(tables->machine.vm, 0, (gpa_t){0}, GIB, &done))
		return -1;
	start = bench_now() - start;
	return stat(tables, QUIRE_VM_STAT_pages_4k) == GIB_PAGES ? start : -1;
}

static double recover_all(void *state)
{
	struct tables *tables = state;
	double start;

	if (map_huge(tables) || machine_set_flags(&tables->machine, QUIRE_SLOT_LOG_DIRTY) ||
	    stat(tables, QUIRE_VM_STAT_pages_4k) != GIB_PAGES)
		return -1;
	start = bench_now();
	if (machine_set_flags(&tables->machine, 0))
		return -1;
	start = bench_now() - start;
	return stat(tables, QUIRE_VM_STAT_pages_2m) == LEAVES_2M ? start : -1;
}

static const struct bench_row rows[] = {
    {
	.name = "metadata/1GiB",
	.floor_text = "a thousandth of the guest's memory: what is allowed",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = metadata_bytes,
	.floor = metadata_allowance,
	.bound = 1,
	.operations = 1,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
	.rounds = 1,
	.is_in_bytes = 1,
    },
    {
	.name = "table_bytes/1GiB",
	.floor_text = "the pages that the format needs",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = table_bytes,
	.floor = table_bytes_needed,
	.bound = 1.03,
	.operations = 1,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
	.rounds = 1,
	.is_in_bytes = 1,
    },
    {
	.name = "zap_4k/1GiB",
	.floor_text = "every entry of 512 tables read, one at a time",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = zap_all_4k,
	.floor = zap_floor,
	.bound = 4,
	.operations = 1,
	.param = MEMORY_SMALL,
	.memory_bytes = GIB,
    },
    {
	.name = "split/1GiB",
	.floor_text = "every entry of 513 tables written, one at a time",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = split_all,
	.floor = split_floor,
	.bound = 2.5,
	.operations = 1,
	.param = MEMORY_HUGE,
	.memory_bytes = GIB,
    },
    {
	.name = "split_vec/1GiB",
	.floor_text = "every entry of 513 tables written, in the machine's widest vectors",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = split_ahead,
	.floor = vector_floor,
	.bound = 1.5,
	.operations = 1,
	.param = MEMORY_HUGE,
	.memory_bytes = GIB,
    },
    {
	.name = "split_1g/1GiB",
	.floor_text = "every entry of 513 tables written, one at a time",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = split_all,
	.floor = split_floor,
	.bound = 2.5,
	.operations = 1,
	.param = MEMORY_HUGE | PARAM_1G,
	.memory_bytes = GIB,
    },
    {
	.name = "recover/1GiB",
	.floor_text = "every entry of 512 tables read, one at a time",
	.setup = tables_setup,
	.teardown = tables_destroy,
	.operation = recover_all,
	.floor = zap_floor,
	.operations = 1,
	.param = MEMORY_HUGE,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_tables = {rows, sizeof(rows) / sizeof(rows[0])};
