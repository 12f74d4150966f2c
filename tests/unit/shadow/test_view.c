/* The picture of a VM with a nested guest: what shadow pages map, beside the TDP tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/view.h>

#include "src/change/change.h"
#include "src/vm/check.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

#define FRAME 70u
#define ALIASES 20u

static struct world world;
static bool good;

static int take(void *ctx, const struct quire_view_piece *piece)
{
	struct quire_view_counts *counts = ctx;

	for (size_t level = 0; level < 4; level++) {
		counts->mapped[level] += piece->counts.mapped[level];
		counts->shadow[level] += piece->counts.shadow[level];
	}
	return 0;
}

static struct quire_view_counts view_of(uint64_t start, uint64_t end, uint64_t piece_pages)
{
	const struct quire_view_request request = {
	    .start = {start}, .end = {end}, .piece_pages = piece_pages};
	struct quire_view_counts counts = {0};

	assert_int_equal(quire_vm_view(world.vm, &request, take, &counts), 0);
	return counts;
}

static struct vm_leaves told;

static void hear(const struct quire_vm *vm, const struct vm_leaves *leaves)
{
	if (vm == world.vm)
		told = *leaves;
}

/* What the checker of all tables, which shares no walk with the picture, finds now. */
static void ask_checker(void)
{
	struct flush_debt debt;

	vm_check_tells = hear;
	told = (struct vm_leaves){0};
	change_lock(world.vm, &debt);
	change_settle_unlock(world.vm, &debt);
	vm_check_tells = NULL;
}

/* Pages of 4 KiB that leaves of both MMUs map, by the VM's counters and by vm_check(). */
static void totals_are_those_of_the_counters(void)
{
	struct quire_view_counts all = view_of(0, WORLD_PAGES, 100);

	ask_checker();
	assert_true(told.shadow[QUIRE_LEVEL_4K] + told.shadow[QUIRE_LEVEL_2M] > 0);
	for (uint32_t level = QUIRE_LEVEL_4K; level <= QUIRE_LEVEL_1G; level++) {
		uint64_t pages = UINT64_C(1) << (9 * (level - 1));

		assert_int_equal(all.mapped[level], told.tdp[level] * pages);
		assert_int_equal(all.shadow[level], told.shadow[level] * pages);
	}
	assert_int_equal(all.mapped[QUIRE_LEVEL_4K] + all.shadow[QUIRE_LEVEL_4K],
			 quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k));
	assert_int_equal((all.mapped[QUIRE_LEVEL_2M] + all.shadow[QUIRE_LEVEL_2M]) / 512,
			 quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m));
}

static void test_aliases(void **state)
{
	struct quire_view_tables tables;

	(void)state;
	world_start_vm(&world);
	race_path(&world, NPT_ALL | NPT_A);
	world_nested(&world, 1);
	for (uint32_t i = 0; i < ALIASES; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(FRAME) | NPT_USED);
	assert_int_equal(view_of(FRAME, FRAME + 1, 1).shadow[QUIRE_LEVEL_4K], 0);
	for (uint32_t i = 0; i < ALIASES; i++) {
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
		assert_in_range(view_of(FRAME, FRAME + 1, 1).shadow[QUIRE_LEVEL_4K], i + 1,
				ALIASES);
	}
	assert_int_equal(view_of(FRAME, FRAME + 1, 1).shadow[QUIRE_LEVEL_4K], ALIASES);
	assert_int_equal(view_of(0, FRAME, 1).shadow[QUIRE_LEVEL_4K], 0);
	assert_int_equal(view_of(FRAME + 1, WORLD_PAGES, 3).shadow[QUIRE_LEVEL_4K], 0);
	totals_are_those_of_the_counters();
	assert_int_equal(quire_vm_view_tables(world.vm, &tables), 0);
	assert_int_equal(tables.shadow_pages,
			 quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_shadow_pages));
	assert_true(tables.shadow_pages >= 4 && tables.used > tables.shadow_pages);
	world_stop_vm(&world);
}

static void test_huge(void **state)
{
	(void)state;
	world_start_vm(&world);
	world_set_path(&world);
	world_nested(&world, 1);
	world_put_entry(&world, TABLE_2M, 1, BLOCK(1) | NPT_USED | NPT_PS);
	(void)world_check(&world, BLOCK(1) + PAGE(9), WORLD_READ);
	assert_int_equal(view_of(512, 1024, 512).shadow[QUIRE_LEVEL_2M], 512);
	/* Of a large leaf, what is in the range. */
	assert_int_equal(view_of(600, 610, 7).shadow[QUIRE_LEVEL_2M], 10);
	totals_are_those_of_the_counters();
	world_stop_vm(&world);
}

/* The picture beside L1's store to its table: the set of the first frame shrinks meanwhile. */
static uint64_t seen;

static void make_two(void *ctx)
{
	(void)ctx;
	world_start_vm(&world);
	race_path(&world, NPT_ALL | NPT_A);
	world_nested(&world, 1);
	for (uint32_t i = 0; i < 2; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(FRAME) | NPT_USED);
	for (uint32_t i = 0; i < 2; i++)
		(void)world_access(&world, PAGE(i), WORLD_WRITE);
}

static void race_body(uint32_t thread, void *ctx)
{
	uint64_t entry = PAGE(FRAME + 1) | NPT_USED;

	(void)ctx;
	if (thread == 1)
		seen = view_of(FRAME, FRAME + 1, 1).shadow[QUIRE_LEVEL_4K];
	else
		good &=
		    !quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K)}, &entry, sizeof(entry));
}

static bool race_check(void *ctx)
{
	bool was_good = good && seen <= 2;

	(void)ctx;
	good = true;
	world_stop_vm(&world);
	return was_good;
}

static void test_against_remapping(void **state)
{
	(void)state;
	good = true;
	race_explore_once(make_two, race_body, race_check);
}

int view_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_aliases),
	    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_against_remapping),
	};

	return race_run(&world, "view", tests, sizeof(tests) / sizeof(tests[0]));
}
