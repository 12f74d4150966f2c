/*
 * A harvest of many pages that L2 has written, on the library as clients link it: one hold of
 * mmu_lock takes more than a word of the log there, and ends with the changes that it has made.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/shadow/world.h"

/* One page more than three words of the log show; the slot's second word is the first of them. */
#define FIRST (WORLD_SLOT_PAGES + 64)
#define WRITTEN 193u

static struct world world;

static int setup(void **state)
{
	world_start(&world);
	world_set_path(&world);
	for (uint32_t i = 0; i < WRITTEN; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(FIRST + i) | NPT_ALL);
	*state = &world;
	return 0;
}

/* After a harvest each page is protected again: the next write of it is in the log, too. */
static void test_many_pages(void **state)
{
	(void)state;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	world_nested(&world, 1);
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < WRITTEN; i++)
			assert_int_equal(world_check(&world, PAGE(i), WORLD_WRITE).outcome, 0);
		assert_int_equal(world_harvest(&world, 1), 0);
	}
	world_nested(&world, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_many_pages, setup, world_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
