/* How far one hold of mmu_lock gets: where write permission is taken, where leaves are split. */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/tdp/tdp.h"

/*
 * A hold that protects looks at 8192 entries at most. A huge leaf that it protects counts as 8
 * more, as long as so many are left that the hold gets to a lowest table all the same: 5 tables'
 * and 8.
 */
#define ENTRIES 8192u
#define HUGE 8u
#define KEPT (5 * 512u + HUGE)
#define GROUP 16u /* entries above the lowest level that are looked at together */

/* The last 2 of 16 blocks of 1 GiB have memory: all of the one, some of the other. */
#define GIGANTIC 16u
#define FIRST ((GIGANTIC - 2) * (uint64_t)SIM_GIGANTIC)
#define HALF (SIM_GIGANTIC / 2)
#define HUGE_LEAVES 624u
#define SMALL (FIRST + HUGE_LEAVES * (uint64_t)SIM_BLOCK) /* from here on there are tables */
#define TABLES 6u

/* With 16 entries looked at above them, groups of huge leaves leave just what is kept. */
_Static_assert(ENTRIES - GROUP - HUGE_LEAVES - HUGE * (HUGE_LEAVES - 1) == KEPT, "an edge");

static void add_region(uint32_t slot, uint64_t gfn, uint64_t npages)
{
	const struct quire_region region = {
	    .slot = slot, .gpa = {PAGES(gfn)}, .size_bytes = PAGES(npages), .hva = sim_hva(0)};

	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
}

/* Neither slot has a whole block of 1 GiB. */
static void begin(void)
{
	uint64_t end = SMALL + TABLES * SIM_BLOCK;
	struct table_cache tables = {0};
	gfn_t start = {SMALL};

	vm_begin();
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	add_region(0, FIRST, HALF);
	add_region(1, FIRST + HALF, end - FIRST - HALF);
	for (uint64_t gfn = FIRST; gfn < end; gfn += SIM_BLOCK)
		store(gfn, 1);
	leaves_are(0, HUGE_LEAVES + TABLES, 0);
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, TABLES), 0);
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){end}, &tables), 0);
	biglock_write_unlock(&machine.vm->mmu_lock);
	assert_int_equal(start.v, end);
	table_cache_drain(&tables, &machine.vm->arena);
	leaves_are(0, HUGE_LEAVES, TABLES * SIM_BLOCK);
}

/* From a gfn so that 16 entries are looked at above the leaves, however many levels there are. */
static uint64_t protect_to(uint64_t end)
{
	uint64_t above = machine.vm->tdp_format.root_level - QUIRE_LEVEL_1G, stopped;
	struct flush_debt debt;

	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	stopped = tdp_write_protect_range(machine.vm, 0, (gfn_t){above * SIM_GIGANTIC},
					  (gfn_t){end}, &debt)
		      .v;
	assert_true(debt.owed);
	flush_debt_pay(&debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	return stopped;
}

/* After the huge leaves 5 entries are looked at, and 5 tables. */
static void test_protects_so_many(void **state)
{
	const uint64_t end = SMALL + 5 * SIM_BLOCK;
	struct flush_debt debt;

	(void)state;
	begin();
	assert_int_equal(protect_to(end), end);
	/* Where nothing has W none is taken. */
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	(void)tdp_write_protect_range(machine.vm, 0, (gfn_t){FIRST}, (gfn_t){end}, &debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	assert_int_equal(debt.owed, entry_ages_by_rights(&machine.vm->tdp_format));
	for (uint64_t gfn = FIRST; gfn < end; gfn += SIM_BLOCK)
		assert_false(writable_at(gfn) || writable_at(gfn + SIM_BLOCK - 1));
	assert_true(writable_at(end));
	vm_end();
}

/* The sixth table is the next hold's, and one that finds nothing huge to protect gets there. */
static void test_stops_in_front_of_the_next(void **state)
{
	const uint64_t end = SMALL + 5 * SIM_BLOCK;

	(void)state;
	begin();
	assert_int_equal(protect_to(end + 1), end + 1);
	assert_false(writable_at(end));
	assert_true(writable_at(end + 1));
	store(end, 1);
	vm_end();
	begin();
	assert_int_equal(protect_to(end + SIM_BLOCK), end);
	assert_true(writable_at(end));
	assert_int_equal(protect_to(end + SIM_BLOCK), end + SIM_BLOCK);
	assert_false(writable_at(end) || writable_at(end + SIM_BLOCK - 1));
	vm_end();
}

/* Without a table for a leaf of 1 GiB the next hold begins where this one did. */
static void test_split_without_a_table(void **state)
{
	static const uint64_t starts[] = {0, 1, MIDDLE};
	struct table_cache none = {0};

	(void)state;
	vm_begin();
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_GIGANTIC, 0);
	store(MIDDLE, 2);
	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
		gfn_t start = {starts[i]};

		biglock_write_lock(&machine.vm->mmu_lock);
		assert_int_equal(
		    tdp_split_range(machine.vm, 0, &start, (gfn_t){SIM_GIGANTIC}, &none), -ENOMEM);
		biglock_write_unlock(&machine.vm->mmu_lock);
		assert_int_equal(start.v, starts[i]);
		leaves_are(1, 0, 0);
	}
	vm_end();
}

static uint64_t names[2]; /* of the leaf that went: its gfn, and the address space of its table */

static void record(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_tdp_mmu_spte_changed)
		return;
	names[0] = args[0];
	names[1] = args[4];
}

/* A table that had another use knows what it maps now. */
static void test_split_names_its_table(void **state)
{
	const uint64_t gone = FIRST + HALF + 3 * SIM_BLOCK + 9;
	gfn_t start = {gone};
	struct table_cache tables = {0};
	struct flush_debt debt;
	struct table *table;

	(void)state;
	begin();
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 1), 0);
	for (table = tables.tables; table; table = table->next) {
		table->gfn.v = SIM_BLOCK;
		table->as_id = 1;
	}
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){gone + 1}, &tables), 0);
	quire_trace_install(record);
	tdp_zap_range(machine.vm, 1, (gfn_t){gone}, (gfn_t){gone + 1}, &debt);
	quire_trace_install(NULL);
	flush_debt_pay(&debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	table_cache_drain(&tables, &machine.vm->arena);
	assert_int_equal(names[0], gone);
	assert_int_equal(names[1], 0);
	vm_end();
}

static uint64_t tries, try[4];

static void record_try(enum quire_trace_event which, const uint64_t *args)
{
	if (which != QUIRE_TRACE_kvm_mmu_split_huge_page)
		return;
	tries++;
	memcpy(try, args, sizeof(try));
}

/* Each attempt to split a leaf is told, also one that no memory is left for; not one that waits. */
static void test_splits_are_traced(void **state)
{
	const uint64_t first = FIRST + 3 * (uint64_t)SIM_BLOCK;
	gfn_t start = {first};
	struct table_cache tables = {0};
	uint64_t leaf;
	uint32_t level;

	(void)state;
	begin();
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 1), 0);
	leaf = leaf_at(first, &level);
	tries = 0;
	biglock_write_lock(&machine.vm->mmu_lock);
	quire_trace_install(record_try);
	assert_int_equal(
	    tdp_split_range(machine.vm, 0, &start, (gfn_t){first + SIM_BLOCK}, &tables), 0);
	assert_int_equal(start.v, first + SIM_BLOCK);
	assert_int_equal(tries, 1);
	assert_int_equal(try[0], first);
	assert_int_equal(try[1], leaf);
	assert_int_equal(try[2], QUIRE_LEVEL_2M);
	assert_int_equal(try[3], 0);
	quire_trace_install(NULL);
	biglock_write_unlock(&machine.vm->mmu_lock);
	table_cache_drain(&tables, &machine.vm->arena);
	for (tables.exhausted = 0; tables.exhausted < 2; tables.exhausted++) {
		tries = 0;
		biglock_write_lock(&machine.vm->mmu_lock);
		quire_trace_install(record_try);
		/* From within the block before it. */
		start.v = first + SIM_BLOCK + 7;
		leaf = leaf_at(start.v, &level);
		assert_int_equal(
		    tdp_split_range(machine.vm, 0, &start, (gfn_t){first + 3 * SIM_BLOCK}, &tables),
		    -ENOMEM);
		quire_trace_install(NULL);
		biglock_write_unlock(&machine.vm->mmu_lock);
		assert_int_equal(start.v, first + SIM_BLOCK + 7);
		assert_int_equal(tries, tables.exhausted);
		if (!tables.exhausted)
			continue;
		assert_int_equal(try[0], first + SIM_BLOCK);
		assert_int_equal(try[1], leaf);
		assert_int_equal((int)try[3], -ENOMEM);
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_protects_so_many),
	    cmocka_unit_test(test_stops_in_front_of_the_next),
	    cmocka_unit_test(test_split_without_a_table),
	    cmocka_unit_test(test_split_names_its_table),
	    cmocka_unit_test(test_splits_are_traced),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
