/* Two threads in one world, in every interleaving with few preemptions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/shadow/race.h"

uint32_t race_preemptions = 2;
bool race_has_neighbours;

/* The group's. */
static struct world *group_world;

void race_explore(void (*make)(void *), void (*body)(uint32_t, void *), bool (*check)(void *))
{
	struct sched_test test = {
	    .threads = 2,
	    .preemptions_max = race_preemptions,
	    .setup = make,
	    .body = body,
	    .check = check,
	};
	struct sched_verdict verdict = sched_explore(&test);

	print_message("%llu runs\n", (unsigned long long)verdict.runs);
	if (verdict.failed)
		for (uint32_t i = 0; i < verdict.plan.count; i++)
			print_error("result %d: %u->%u\n", (int)verdict.result,
				    verdict.plan.at[i].step, verdict.plan.at[i].thread);
	assert_false(verdict.failed);
	assert_true(verdict.runs > 20);
}

void race_explore_once(void (*make)(void *), void (*body)(uint32_t, void *), bool (*check)(void *))
{
	uint32_t preemptions = race_preemptions;

	race_preemptions = 1;
	race_explore(make, body, check);
	race_preemptions = preemptions;
}

static int begin(void **state)
{
	(void)state;
	world_start(group_world);
	world_stop_vm(group_world);
	if (!race_has_neighbours)
		group_world->ops.pages_there = NULL;
	return 0;
}

static int end(void **state)
{
	(void)state;
	group_world->on_access = NULL;
	world_start_vm(group_world);
	world_stop(group_world);
	return 0;
}

int race_run(struct world *world, const char *name, const struct CMUnitTest *tests, size_t count)
{
	group_world = world;
	return _cmocka_run_group_tests(name, tests, count, begin, end);
}

void race_path(struct world *world, uint64_t rights)
{
	world_put_entry(world, WORLD_ROOT, 0, PAGE(TABLE_1G) | rights);
	world_put_entry(world, TABLE_1G, 0, PAGE(TABLE_2M) | rights);
	world_put_entry(world, TABLE_2M, 0, PAGE(TABLE_4K) | rights);
}
