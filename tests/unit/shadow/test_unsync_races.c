/* A processor that changes L1's tables and flushes, against one that runs L2 or does the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

#define OLD 70u
#define NEW 71u

static struct world world;
static struct world_result results[WORLD_CPUS];
static bool good;

/* While it is in guest mode: L1 stores into its table, L2 into its page. */
static void store(uint8_t *host)
{
	uint64_t entry = PAGE(NEW) | NPT_USED;

	if (host >= world_page(&world, TABLE_4K) && host < world_page(&world, TABLE_4K) + PAGE(1))
		memcpy(host, &entry, sizeof(entry));
}

/* L2's pages 4 to 7 are OLD; its tables are shadowed, and 4 and 7 are mapped. */
static void setup(void *ctx)
{
	(void)ctx;
	good = true;
	world.on_access = NULL;
	world_start_vm(&world);
	world_add_cpu(&world);
	race_path(&world, NPT_ALL | NPT_A);
	for (uint32_t i = 4; i < 8; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(OLD) | NPT_USED);
	world_nested_on(&world, 1, 1);
	(void)world_access_on(&world, 1, PAGE(4), WORLD_WRITE);
	(void)world_access_on(&world, 1, PAGE(7), WORLD_WRITE);
	world.on_access = store;
}

/* The same, but both processors are L1's, and have just written the table: it lags. */
static void lagging_setup(void *ctx)
{
	setup(ctx);
	world_nested_on(&world, 1, 0);
	for (uint32_t cpu = 0; cpu < WORLD_CPUS; cpu++)
		(void)world_access_on(&world, cpu, PAGE(TABLE_4K) + 6 * 8, WORLD_WRITE);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_unsync), 1);
}

static bool stop(void)
{
	world.on_access = NULL;
	world_stop_vm(&world);
	return good;
}

static void expect(uint32_t cpu, uint32_t page, uint32_t frame)
{
	results[cpu] = world_access_on(&world, cpu, PAGE(page), WORLD_WRITE);
	good &= !results[cpu].outcome && results[cpu].host == world_page(&world, frame);
}

/* Store the entry of @page as L1, and run L2: it must see what this processor stored. */
static void change_and_run(uint32_t cpu, uint32_t page)
{
	good &= !world_access_on(&world, cpu, PAGE(TABLE_4K) + page * 8, WORLD_WRITE).outcome;
	world_nested_on(&world, cpu, 1);
	expect(cpu, page, NEW);
}

static void changing_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 1)
		change_and_run(0, 5);
	else
		results[1] = world_access_on(&world, 1, PAGE(5), WORLD_WRITE);
}

static bool changing_check(void *ctx)
{
	(void)ctx;
	/* It saw the one or the other. What the first processor has flushed is gone for good. */
	good &= !results[1].outcome && (results[1].host == world_page(&world, OLD) ||
					results[1].host == world_page(&world, NEW));
	memset(world.cpus[0].tlb, 0, sizeof(world.cpus[0].tlb));
	expect(0, 5, NEW);
	quire_vcpu_flush_nested(world.cpus[1].vcpu);
	expect(1, 5, NEW);
	expect(1, 7, OLD);
	return stop();
}

/* Both change the table: 4 and 7 are mapped, and each must lose its own. */
static void both_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	change_and_run(thread, thread ? 4 : 7);
}

static bool both_check(void *ctx)
{
	(void)ctx;
	for (uint32_t cpu = 0; cpu < WORLD_CPUS; cpu++) {
		quire_vcpu_flush_nested(world.cpus[cpu].vcpu);
		expect(cpu, 4, NEW);
		expect(cpu, 7, NEW);
		expect(cpu, 5, OLD);
	}
	return stop();
}

static void test_change_against_l2(void **state)
{
	(void)state;
	race_explore(setup, changing_body, changing_check);
}

static void test_two_changes_of_a_lagging_table(void **state)
{
	(void)state;
	race_explore(lagging_setup, both_body, both_check);
}

int unsync_race_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_change_against_l2),
	    cmocka_unit_test(test_two_changes_of_a_lagging_table),
	};

	return race_run(&world, "unsync race", tests, sizeof(tests) / sizeof(tests[0]));
}
