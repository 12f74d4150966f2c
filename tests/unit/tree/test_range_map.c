/* The map of ranges against an array of values, number by number, at both ends of all numbers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/tree/range_map.h"
#include "tests/unit/fake_host.h"

#define NUMBERS 24u

/* The numbers [base, base + NUMBERS), and what each of them is. */
struct model {
	u64 base;
	u64 values[NUMBERS];
};

static u64 runs_of(const struct model *model)
{
	u64 runs = 0;

	for (u32 i = 0; i < NUMBERS; i++)
		runs += model->values[i] && (!i || model->values[i - 1] != model->values[i]);
	return runs;
}

static u32 run_end(const struct model *model, u32 start, u32 end)
{
	u32 at = start;

	while (at < end && model->values[at] == model->values[start])
		at++;
	return at;
}

static void check_map(const struct range_map *map, const struct model *model)
{
	u64 base = model->base, value;

	for (u32 i = 0; i < NUMBERS; i++) {
		assert_int_equal(range_map_get(map, base + i), model->values[i]);
		for (u32 end = i + 1; end <= NUMBERS; end++) {
			u32 run = run_end(model, i, end);

			value = 77;
			assert_int_equal(range_map_run(map, base + i, base + end, &value),
					 base + run);
			assert_int_equal(value, model->values[i]);
			assert_int_equal(range_map_uniform(map, base + i, base + end, &value),
					 run == end);
		}
	}
	/* Ranges that touch are one where their values are. */
	assert_int_equal(map->ranges.count, runs_of(model));
}

static int prepare(const struct range_map *map, u64 start, u64 end, u64 value,
		   struct range_map_change *change)
{
	struct ptree_item range = {start, end, (void *)(uintptr_t)value};

	return range_map_prepare(map, &fake_ops, NULL, &range, change);
}

/* [@start, @end) gets @value; each allocation fails before it does, and it is undone once. */
static void set(struct range_map *map, struct model *model, u32 start, u32 end, u64 value)
{
	struct range_map_change change;
	u64 live = fake.live_allocs;
	int error = -ENOMEM;

	for (u64 fails = 1; error; fails++) {
		fake_fail_in(fails);
		error = prepare(map, model->base + start, model->base + end, value, &change);
		fake_fail_in(0);
		assert_true(!error || error == -ENOMEM);
		if (error)
			assert_int_equal(fake.live_allocs, live);
	}
	range_map_commit(map, &change);
	range_map_undo(map, &change);
	range_map_abort(&change);
	assert_int_equal(fake.live_allocs, live);
	check_map(map, model);
	assert_int_equal(prepare(map, model->base + start, model->base + end, value, &change), 0);
	range_map_commit(map, &change);
	range_map_finish(&change);
	for (u32 i = start; i < end; i++)
		model->values[i] = value;
	check_map(map, model);
}

static void check_base(u64 base)
{
	struct model model = {.base = base};
	struct range_map map = {0};
	u64 value = 77;

	fake_reset();
	srand(4);
	assert_true(range_map_uniform(&map, 0, UINT64_MAX, &value));
	assert_int_equal(value, 0);
	set(&map, &model, 0, NUMBERS, 1);
	for (u32 round = 0; round < 200; round++) {
		u32 start = (u32)rand() % NUMBERS;
		u32 end = start + 1 + (u32)rand() % (round & 1 ? 4 : NUMBERS - start);

		set(&map, &model, start, end < NUMBERS ? end : NUMBERS, (u64)rand() % 3);
	}
	/* A hole, and both sides of it; then it is closed. */
	set(&map, &model, 0, NUMBERS, 2);
	set(&map, &model, 7, 8, 1);
	assert_int_equal(map.ranges.count, 3);
	set(&map, &model, 7, 8, 2);
	assert_int_equal(map.ranges.count, 1);
	range_map_destroy(&map, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

static void test_ends(void **state)
{
	(void)state;
	check_base(0);
	check_base(1);
	check_base(UINT64_MAX / 2);
	check_base(UINT64_MAX - NUMBERS);
	check_base(UINT64_MAX - NUMBERS - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
