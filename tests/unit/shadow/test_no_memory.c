/* Nested faults that find no memory for tables: each says so, and the next one works. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/vm/vcpu.h"
#include "src/vm/vm.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_2M 5u
/* Where L2 finds TABLE_4K through a directory of its own. */
#define OTHER (UINT64_C(1) << 30)
/* More tables than a fault holds ready. */
#define TABLES_MAX 96u

/* The first processor is L1's, the second runs L2. */
#define L1 0u
#define L2 1u

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	return 0;
}

/* A new VM on the same host, in which L2 runs with the table at TABLE_4K. */
static void begin_anew(void)
{
	world_stop_vm(&world);
	world_start_vm(&world);
	world_add_cpu(&world);
	for (uint32_t i = 0; i < 16; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_USED);
	world_put_entry(&world, TABLE_1G, 1, PAGE(OTHER_2M) | NPT_USED);
	world_put_entry(&world, OTHER_2M, 0, PAGE(TABLE_4K) | NPT_USED);
	world_nested_on(&world, L2, 1);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(world_access_on(&world, L2, PAGE(i), WORLD_WRITE).outcome, 0);
}

/* L2's access at @gpa with @left tables left, where the host has no memory for more. */
static int access_without(uint64_t gpa, uint32_t left)
{
	struct arena *arena = &world.vm->arena;
	struct table_cache hog = {0};
	int outcome;

	table_cache_drain(&world.cpus[L2].vcpu->tables, arena);
	assert_int_equal(table_cache_fill(&hog, arena, left + 1), 0);
	if (arena->free_count)
		assert_int_equal(
		    table_cache_fill(&hog, arena, hog.count + (uint32_t)arena->free_count), 0);
	assert_int_equal(arena->free_count, 0);
	for (struct table_cache back = {0}; left; left--) {
		table_cache_put(&back, table_cache_take(&hog));
		table_cache_drain(&back, arena);
	}
	world.host.fail_at = world.host.allocations + 1;
	outcome = world_access_on(&world, L2, gpa, WORLD_WRITE).outcome;
	world.host.fail_at = 0;
	table_cache_drain(&hog, arena);
	return outcome;
}

static void check_other(uint32_t index, uint32_t page)
{
	struct world_result result = world_access_on(&world, L2, OTHER + PAGE(index), WORLD_WRITE);

	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(&world, page));
}

/* L2 has run for a while: the fault asks for memory before it changes anything. */
static void test_fault(void **state)
{
	uint64_t pages;

	(void)state;
	begin_anew();
	pages = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);
	assert_int_equal(access_without(OTHER, 0), -ENOMEM);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), pages);
	check_other(0, 70);
}

/*
 * The new directory takes tables, and the walk is done again once it is tracked: as many must be at
 * hand again then. With too few for that the table below it still lags, and is not used.
 */
static void test_new_directory(void **state)
{
	uint32_t at_once = 0, later = 0, done = 0;

	(void)state;
	for (uint32_t left = 0; left < TABLES_MAX; left++) {
		uint64_t pages;
		int outcome;

		begin_anew();
		world_set_entry(&world, TABLE_4K, 1, PAGE(101) | NPT_USED);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
		pages = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);
		outcome = access_without(OTHER + PAGE(1), left);
		pages = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss) - pages;
		if (outcome)
			assert_int_equal(outcome, -ENOMEM);
		at_once += outcome && !pages;
		later += outcome && pages;
		done += !outcome;
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), outcome ? 1 : 0);
		check_other(1, 101);
	}
	assert_true(at_once && later && done);
}

int no_memory_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_fault, setup, world_teardown),
	    cmocka_unit_test_setup_teardown(test_new_directory, setup, world_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
