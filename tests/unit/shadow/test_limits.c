/* When the shadow MMU comes to be, what it keeps, and where its lists end. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/shadow/shadow.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_ROOT 5u
#define CHAIN_MAX 1000u
/*
 * Of the eager split: one descriptor for each child and one for the parent; forty more, and as
 * objects come by the page of 32.
 */
#define DESCRIPTORS_MIN 513u
#define DESCRIPTORS_MAX (553u + 31u)
#define HEADERS_MAX (40u + 31u)

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	return 0;
}

static void build_tables(void)
{
	world_set_path(&world);
	world_set_entry(&world, OTHER_ROOT, 0, PAGE(TABLE_1G) | NPT_ALL);
}

/* Nothing of it is there before the first nested root. */
static void test_made_with_the_first_root(void **state)
{
	(void)state;
	build_tables();
	assert_null(shadow_of(world.vm));
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	assert_null(shadow_of(world.vm));
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	assert_non_null(shadow_of(world.vm));
}

static void use_root(uint64_t gfn)
{
	struct quire_nested tables = {.root = {PAGE(gfn)}, .levels = 4, .nx = 1};

	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
	world.cpus[0].nested = 1;
	assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, 0);
}

/* L1 goes back to tables that it has used before: they are still shadowed, leaves and all. */
static void test_roots_are_found_again(void **state)
{
	uint64_t made, faults;

	(void)state;
	build_tables();
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	use_root(WORLD_ROOT);
	use_root(OTHER_ROOT);
	made = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);
	faults = world.cpus[0].faults;
	for (uint32_t round = 0; round < 4; round++)
		use_root(round % 2 ? OTHER_ROOT : WORLD_ROOT);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), made);
	assert_int_equal(world.cpus[0].faults, faults);
	world_nested(&world, 0);
}

/* Roots stay as long as they may: once they alone fill what is allowed, the oldest go. */
static void test_roots_fill_the_limit(void **state)
{
	const uint32_t roots = 100, first = 100;

	(void)state;
	build_tables();
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	for (uint32_t i = 0; i < roots; i++)
		world_set_entry(&world, first + i, 0, PAGE(TABLE_1G) | NPT_ALL);
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 64), 0);
	for (uint32_t round = 0; round < 2; round++)
		for (uint32_t i = 0; i < roots; i++) {
			use_root(first + i);
			assert_in_range(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages), 4, 64);
		}
	/* The last one is still in use. */
	assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, 0);
	world_nested(&world, 0);
}

/* A chain that has reached its end goes whole. */
static void test_longest_chain(void **state)
{
	uint64_t before;

	(void)state;
	build_tables();
	for (uint32_t table = 0; table < 2; table++) {
		world_set_entry(&world, TABLE_2M, table, PAGE(20 + table) | NPT_ALL);
		for (uint32_t i = 0; i < 512; i++)
			world_set_entry(&world, 20 + table, i, PAGE(99) | NPT_ALL);
	}
	before = world_stat(&world, QUIRE_VM_STAT_pages_4k);
	for (uint32_t page = 0; page < CHAIN_MAX; page++)
		(void)world_check(&world, PAGE(page), WORLD_WRITE);
	assert_true(world_stat(&world, QUIRE_VM_STAT_pages_4k) > before + CHAIN_MAX - 32);
	(void)world_check(&world, PAGE(CHAIN_MAX), WORLD_WRITE);
	assert_true(world_stat(&world, QUIRE_VM_STAT_pages_4k) < before + 32);
	for (uint32_t page = 0; page < 2 * 512; page += 50)
		(void)world_check(&world, PAGE(page), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_max_mmu_rmap_size), CHAIN_MAX);
}

/* Filled once, used by each start of the log, kept when it stops, and freed with the VM. */
static void test_caches_of_the_split(void **state)
{
	const struct shadow *shadow;
	uint64_t slabs;

	(void)state;
	build_tables();
	world_set_entry(&world, TABLE_2M, 1, PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS);
	(void)world_check(&world, UINT64_C(1) << 21, WORLD_WRITE);
	shadow = shadow_of(world.vm);
	assert_int_equal(shadow->split_descriptors.count, 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_in_range(shadow->split_descriptors.count, DESCRIPTORS_MIN, DESCRIPTORS_MAX);
	assert_in_range(shadow->split_headers.count, 1, HEADERS_MAX);
	assert_true(shadow->split_pages.count > 0);
	assert_int_equal(world_slot(&world, 1, 0), 0);
	assert_in_range(shadow->split_descriptors.count, DESCRIPTORS_MIN, DESCRIPTORS_MAX);
	(void)world_check(&world, UINT64_C(1) << 21, WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	slabs = shadow->slabs.count;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(shadow->slabs.count, slabs);
}

#define LIMIT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int limit_tests(void)
{
	const struct CMUnitTest tests[] = {
	    LIMIT_TEST(test_made_with_the_first_root), LIMIT_TEST(test_roots_are_found_again),
	    LIMIT_TEST(test_roots_fill_the_limit),     LIMIT_TEST(test_longest_chain),
	    LIMIT_TEST(test_caches_of_the_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
