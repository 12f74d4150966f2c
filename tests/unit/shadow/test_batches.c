/*
 * Tables that lag catch up in batches, before a vCPU enters guest mode: how many holds of mmu_lock
 * that takes, where it ends, and what goes with it. And what becomes of the mappings of a page that
 * turns into a table.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/fault/fault.h"
#include "src/vm/check.h"
#include "tests/unit/shadow/by_hand.h"

#define BATCH SHADOW_SYNC_BATCH
#define TABLES (3 * BATCH)
#define TABLE(i) (20u + 2 * (i)) /* with a page of data between two */
#define DATA 300u
/* A batch is chosen in one hold, and compared in another one. */
#define HOLDS 2u

/* The first processor is L1's, the second runs L2. */
#define L2 1u

static uint32_t holds;
static void (*after_load)(void); /* once, when the library has read an entry of a table of L1's */

static void count_hold(const struct quire_vm *vm)
{
	(void)vm;
	holds++;
}

static int load_u64(void *ctx, hva_t src, uint64_t *value)
{
	void (*now)(void) = after_load;
	int err = sim_host_ops.load_u64(ctx, src, value);

	after_load = NULL;
	if (now)
		now();
	return err;
}

static uint64_t lagging(void)
{
	return world_stat(&world, QUIRE_VM_STAT_mmu_unsync);
}

static struct quire_vcpu *l2(void)
{
	return world.cpus[L2].vcpu;
}

static void set_leaf(uint32_t table, uint64_t page)
{
	world_set_entry(&world, TABLE(table), 0, PAGE(page) | NPT_USED);
}

static uint8_t *l2_host(uint64_t gpa)
{
	struct world_result result = world_access_on(&world, L2, gpa, WORLD_READ);

	return result.outcome ? NULL : result.host;
}

/* L2 has used one page below each of the tables. */
static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 1000), 0);
	for (uint32_t i = 0; i < TABLES; i++) {
		set_leaf(i, DATA + i);
		world_set_entry(&world, TABLE_2M, 1 + i, PAGE(TABLE(i)) | NPT_ALL);
	}
	world_nested_on(&world, L2, 1);
	for (uint32_t i = 0; i < TABLES; i++)
		assert_ptr_equal(l2_host(BLOCK(1 + i)), world_page(&world, DATA + i));
	assert_int_equal(lagging(), 0);
	world.ops.load_u64 = load_u64;
	after_load = NULL;
	return 0;
}

static int teardown(void **state)
{
	vm_check_also = NULL;
	return world_teardown(state);
}

/* L1 writes so many of its tables, and flushes. */
static void let_lag(uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		set_leaf(i, DATA + TABLES + i);
	assert_int_equal(lagging(), count);
	quire_vcpu_flush_nested(l2());
}

static void enter(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(shadow_reserve(l2()), 0);
	holds = 0;
	vm_check_also = count_hold;
	assert_int_equal(quire_vcpu_enter(l2(), &requests, &stage2), 0);
	vm_check_also = NULL;
	quire_vcpu_leave(l2());
}

static void check_pages(uint32_t changed)
{
	for (uint32_t i = 0; i < TABLES; i++)
		assert_ptr_equal(l2_host(BLOCK(1 + i)),
				 world_page(&world, i < changed ? DATA + TABLES + i : DATA + i));
}

static void test_how_many_batches(void **state)
{
	static const uint32_t counts[] = {1,	     BATCH - 1, BATCH,	      BATCH + 1,
					  2 * BATCH, 3 * BATCH, 2 * BATCH + 1};

	(void)state;
	quire_vcpu_flush_nested(l2());
	enter();
	assert_int_equal(holds, 0);
	for (uint32_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		let_lag(counts[i]);
		enter();
		assert_int_equal(holds, HOLDS * ((counts[i] + BATCH - 1) / BATCH));
		assert_int_equal(lagging(), 0);
		/* The next entry has nothing to do. */
		enter();
		assert_int_equal(holds, 0);
		check_pages(counts[i]);
		for (uint32_t table = 0; table < counts[i]; table++)
			set_leaf(table, DATA + table);
		quire_vcpu_flush_nested(l2());
		check_pages(0);
	}
}

static void write_first(void)
{
	set_leaf(0, DATA + 2 * TABLES);
}

static void write_many(void)
{
	for (uint32_t i = 0; i < 2 * BATCH; i++)
		set_leaf(i, DATA + 2 * TABLES + i);
}

/* What L1 writes after its flush waits for the next one, however much it is. */
static void test_written_meanwhile(void **state)
{
	(void)state;
	let_lag(BATCH);
	after_load = write_first;
	enter();
	/* One is of L1's fault. */
	assert_int_equal(holds, HOLDS + 1);
	assert_int_equal(lagging(), 1);
	quire_vcpu_flush_nested(l2());
	enter();
	assert_int_equal(lagging(), 0);
	for (uint32_t i = 0; i < TABLES; i++)
		assert_non_null(l2_host(BLOCK(1 + i)));

	let_lag(BATCH);
	after_load = write_many;
	enter();
	assert_null(after_load);
	assert_int_equal(lagging(), 2 * BATCH);
	quire_vcpu_flush_nested(l2());
	enter();
	assert_int_equal(lagging(), 0);
	assert_ptr_equal(l2_host(BLOCK(2)), world_page(&world, DATA + 2 * TABLES + 1));
}

static void replace_roots(void)
{
	quire_vm_set_nx_huge_pages(world.vm, 1);
	quire_vm_set_nx_huge_pages(world.vm, 0);
}

/* All pages go in the middle: there is nothing left to compare, and another root is made. */
static void test_root_goes_meanwhile(void **state)
{
	const struct shadow_page *root = l2()->shadow.page;

	(void)state;
	let_lag(2 * BATCH);
	after_load = replace_roots;
	enter();
	assert_int_equal(lagging(), 0);
	assert_ptr_not_equal(l2()->shadow.page, root);
	assert_true(shadow_root_is_valid(l2()));
	check_pages(2 * BATCH);
}

/* Without memory the entry fails, and the next one does it. */
static void test_without_memory(void **state)
{
	struct arena *arena = &world.vm->arena;
	struct table_cache free_ones = {0};
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	let_lag(1);
	keep_tables(&l2()->tables, 0);
	while (arena->free_count)
		assert_int_equal(table_cache_fill(&free_ones, arena, free_ones.count + 1), 0);
	world.host.fail_at = world.host.allocations + 1;
	assert_int_equal(quire_vcpu_enter(l2(), &requests, &stage2), -ENOMEM);
	world.host.fail_at = 0;
	assert_int_equal(l2()->shadow.lags, 1);
	assert_int_equal(lagging(), 1);
	table_cache_drain(&hidden_tables, arena);
	table_cache_drain(&free_ones, arena);
	check_pages(1);
	assert_int_equal(lagging(), 0);
}

static uint64_t faults_of_l1(uint64_t page)
{
	uint64_t before = world.cpus[0].faults;

	assert_int_equal(world_access(&world, PAGE(page), WORLD_WRITE).outcome, 0);
	return world.cpus[0].faults - before;
}

/* L1 loses its mapping of a table that follows again, and no other. */
static void test_mappings_of_l1(void **state)
{
	(void)state;
	let_lag(2);
	for (uint64_t page = TABLE(0) - 1; page <= TABLE(1) + 1; page++)
		(void)faults_of_l1(page);
	for (uint64_t page = TABLE(0) - 1; page <= TABLE(1) + 1; page++)
		assert_int_equal(faults_of_l1(page), 0);
	enter();
	for (uint64_t page = TABLE(0) - 1; page <= TABLE(1) + 1; page++)
		assert_int_equal(faults_of_l1(page) > 0, page == TABLE(0) || page == TABLE(1));
}

/* The same of a page that becomes a table. */
static void test_page_becomes_a_table(void **state)
{
	const uint64_t table = TABLE(TABLES) + 1;

	(void)state;
	world_set_entry(&world, table, 0, PAGE(DATA) | NPT_USED);
	world_set_entry(&world, TABLE_2M, 1 + TABLES, PAGE(table) | NPT_ALL);
	for (uint64_t page = table - 1; page <= table + 1; page++)
		(void)faults_of_l1(page);
	for (uint64_t page = table - 1; page <= table + 1; page++)
		assert_int_equal(faults_of_l1(page), 0);
	assert_ptr_equal(l2_host(BLOCK(1 + TABLES)), world_page(&world, DATA));
	for (uint64_t page = table - 1; page <= table + 1; page++)
		assert_int_equal(faults_of_l1(page) > 0, page == table);
}

/* Of a path's new tables so many are taken from L1 as were found, and no page behind them. */
static void test_new_tables_of_a_path(void **state)
{
	const struct shadow_path path = {.fresh = {{DATA}, {DATA + 2}, {DATA + 4}}, .count = 2};

	(void)state;
	for (uint64_t page = DATA; page < DATA + 6; page++)
		(void)faults_of_l1(page);
	change = world_change_begin(&world, &debt);
	fault_protect_fresh(world.vcpu, &path, &debt);
	world_change_end(&world, &debt);
	for (uint64_t page = DATA; page < DATA + 6; page++)
		assert_int_equal(faults_of_l1(page) > 0, page == DATA || page == DATA + 2);
}

#define BATCH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BATCH_TEST(test_how_many_batches),	   BATCH_TEST(test_written_meanwhile),
	    BATCH_TEST(test_root_goes_meanwhile),  BATCH_TEST(test_without_memory),
	    BATCH_TEST(test_mappings_of_l1),	   BATCH_TEST(test_page_becomes_a_table),
	    BATCH_TEST(test_new_tables_of_a_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
