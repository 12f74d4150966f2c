/* What L1 changes in each turn of one fault, and pages that nothing counts beside the one asked
 * for. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_4K 5u
#define FAR 12u
/* More than the turns of one fault. */
#define CHANGES 11u

/* The first processor is L1's, the second runs L2. */
#define L2 1u

static struct world world;
static uint32_t changes;
static bool is_l1;

/* A fault asks for the page when it has walked L1's tables, and before it takes a lock. */
static int get_page(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	/* L1's own store may fault, too. */
	if (changes && !is_l1) {
		is_l1 = true;
		changes--;
		world_set_entry(&world, TABLE_2M, 0,
				PAGE(changes % 2 ? OTHER_4K : TABLE_4K) | NPT_USED);
		is_l1 = false;
	}
	return sim_host_ops.page_get(ctx, hva, flags, page);
}

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world.ops.page_get = get_page;
	for (uint32_t i = 0; i < 16; i++) {
		world_put_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_USED);
		world_put_entry(&world, OTHER_4K, i, PAGE(90 + i) | NPT_USED);
	}
	world_nested_on(&world, L2, 1);
	return 0;
}

static uint8_t *l2_host(uint64_t gpa)
{
	struct world_result result = world_access_on(&world, L2, gpa, WORLD_WRITE);

	assert_int_equal(result.outcome, 0);
	return result.host;
}

/* A table changes in every turn: the fault ends with a retry, and the next ones come to an end. */
static void test_changes_in_every_turn(void **state)
{
	uint64_t faults;

	(void)state;
	assert_ptr_equal(l2_host(PAGE(0)), world_page(&world, 70));
	faults = world.cpus[L2].faults;
	changes = CHANGES;
	(void)l2_host(PAGE(FAR));
	assert_int_equal(changes, 0);
	assert_true(world.cpus[L2].faults > faults + 1);
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
	assert_ptr_equal(l2_host(PAGE(FAR)), world_page(&world, 70 + FAR));
}

/* Frames of a driver beside the one that faults are mapped with it, and none is given back. */
static void test_neighbours_without_count(void **state)
{
	uint64_t faults;

	(void)state;
	for (uint32_t page = 71; page < 78; page++)
		world.host.frames[world.host.pages[page].frame].counted = false;
	(void)l2_host(PAGE(0));
	faults = world.cpus[L2].faults;
	for (uint32_t i = 1; i < 8; i++)
		assert_ptr_equal(l2_host(PAGE(i)), world_page(&world, 70 + i));
	assert_int_equal(world.cpus[L2].faults, faults);
	assert_int_equal(world.host.violations, 0);
	for (uint32_t page = 71; page < 78; page++)
		world.host.frames[world.host.pages[page].frame].counted = true;
}

int turn_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_changes_in_every_turn, setup, world_teardown),
	    cmocka_unit_test_setup_teardown(test_neighbours_without_count, setup, world_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
