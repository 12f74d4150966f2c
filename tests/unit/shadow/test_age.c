/* Aging of what L2 uses: by itself, and against changes of the sets that it goes through. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

#define OLD 70u
#define NEW 71u
#define ALIASES 20u

static struct world world;
static bool good;

static int age(uint32_t page, enum quire_age kind)
{
	return quire_vm_age(world.vm, sim_hva(page), sim_hva(page + 1), kind);
}

static void use(uint32_t page, uint32_t frame)
{
	struct world_result result;

	/* A processor sets A only on a walk. */
	memset(world.cpus[0].tlb, 0, sizeof(world.cpus[0].tlb));
	result = world_access(&world, PAGE(page), WORLD_WRITE);
	good &= !result.outcome && result.host == world_page(&world, frame);
}

/* As many names of OLD as two descriptors hold, or only two. */
static void start(uint32_t aliases)
{
	good = true;
	world_start_vm(&world);
	race_path(&world, NPT_ALL | NPT_A);
	world_nested(&world, 1);
	for (uint32_t i = 0; i < aliases; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(OLD) | NPT_USED);
	for (uint32_t i = 0; i < aliases; i++)
		use(i, OLD);
}

static void setup_one(void *ctx)
{
	(void)ctx;
	start(1);
}

static void setup_two(void *ctx)
{
	(void)ctx;
	start(2);
}

static void setup_many(void *ctx)
{
	(void)ctx;
	start(ALIASES);
}

static bool stop(void)
{
	world_stop_vm(&world);
	return good;
}

/* L1's entry 0 leads elsewhere, and the same word of the shadow page maps another gfn. */
static void remap_body(uint32_t thread, void *ctx)
{
	uint64_t entry = PAGE(NEW) | NPT_USED;

	(void)ctx;
	if (thread == 1) {
		(void)age(OLD, QUIRE_AGE_CLEAR);
		return;
	}
	good &= !quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K)}, &entry, sizeof(entry));
	use(0, NEW);
}

static bool remap_check(void *ctx)
{
	(void)ctx;
	good &= age(NEW, QUIRE_AGE_TEST) == 1;
	return stop();
}

/* The host moves the page, so the whole set goes; and L2 comes back. */
static void move_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 1) {
		(void)age(OLD, QUIRE_AGE_CLEAR);
		return;
	}
	world_migrate(&world, OLD);
	use(1, OLD);
}

static bool move_check(void *ctx)
{
	(void)ctx;
	use(1, OLD);
	good &= age(OLD, QUIRE_AGE_CLEAR) == 1 && age(OLD, QUIRE_AGE_TEST) == 0;
	return stop();
}

/* Two at once: what was used is found by one of them. */
static int found[2];

static void two_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	found[thread] = age(OLD, QUIRE_AGE_CLEAR);
}

static bool two_check(void *ctx)
{
	(void)ctx;
	good &= found[0] | found[1];
	good &= age(OLD, QUIRE_AGE_TEST) == 0;
	return stop();
}

static void test_every_name_counts(void **state)
{
	(void)state;
	start(ALIASES);
	assert_int_equal(age(OLD, QUIRE_AGE_TEST), 1);
	assert_int_equal(age(OLD, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(age(OLD, QUIRE_AGE_TEST), 0);
	for (uint32_t i = 0; i < ALIASES; i++) {
		use(i, OLD);
		assert_int_equal(age(OLD, QUIRE_AGE_CLEAR), 1);
		assert_int_equal(age(OLD, QUIRE_AGE_CLEAR), 0);
		assert_int_equal(age(NEW, QUIRE_AGE_TEST), 0);
	}
	assert_true(stop());
}

static void test_against_remapping(void **state)
{
	(void)state;
	race_explore(setup_one, remap_body, remap_check);
	race_explore(setup_two, remap_body, remap_check);
	race_explore(setup_many, remap_body, remap_check);
}

static void test_against_moving(void **state)
{
	(void)state;
	race_explore(setup_two, move_body, move_check);
}

static void test_two_at_once(void **state)
{
	(void)state;
	race_explore(setup_many, two_body, two_check);
}

int age_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_every_name_counts),
	    cmocka_unit_test(test_against_remapping),
	    cmocka_unit_test(test_against_moving),
	    cmocka_unit_test(test_two_at_once),
	};

	return race_run(&world, "age", tests, sizeof(tests) / sizeof(tests[0]));
}
