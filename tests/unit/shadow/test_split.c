/* Eager splitting of nested huge mappings. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/vm/vm.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define HUGE PAGE(WORLD_SLOT_PAGES)
#define INITIALLY_SET 3u

static struct world world;
static uint32_t splits, refusals;
static int64_t last_error;

/* E-050: each attempt is an event, with what came of it. */
static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event != QUIRE_TRACE_kvm_mmu_split_huge_page)
		return;
	if (args[3]) {
		refusals++;
		last_error = (int64_t)args[3];
	} else {
		splits++;
	}
}

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	splits = refusals = 0;
	last_error = 0;
	world_set_entry(&world, WORLD_ROOT, 0, PAGE(TABLE_1G) | NPT_ALL);
	world_set_entry(&world, TABLE_1G, 0, PAGE(TABLE_2M) | NPT_ALL);
	/* Three names for one block: twice with the same rights, once without execution. */
	world_set_entry(&world, TABLE_2M, 1, HUGE | NPT_ALL | NPT_PS);
	world_set_entry(&world, TABLE_2M, 2, HUGE | NPT_ALL | NPT_PS);
	world_set_entry(&world, TABLE_2M, 3, HUGE | NPT_ALL | NPT_PS | NPT_NX);
	for (uint32_t block = 1; block <= 3; block++)
		(void)world_check(&world, BLOCK(block), WORLD_WRITE);
	quire_trace_install(record);
	return 0;
}

static void touch_all(uint32_t step)
{
	for (uint32_t block = 1; block <= 3; block++)
		for (uint32_t page = 0; page < 512; page += step)
			for (int access = WORLD_READ; access <= WORLD_FETCH; access++)
				(void)world_check(&world, BLOCK(block) + PAGE(page),
						  (enum world_access)access);
}

static void test_split_at_log_start(void **state)
{
	uint64_t made, small = world_stat(&world, QUIRE_VM_STAT_pages_4k);

	(void)state;
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(splits, 3);
	assert_int_equal(refusals > 0 ? last_error : -EAGAIN, -EAGAIN);
	/* Names with the same rights share the child: two tables of 512. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k),
			 small + 2 * QUIRE_TABLE_ENTRIES);
	made = world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss);
	touch_all(17);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_cache_miss), made);
	assert_int_equal(world_harvest(&world, 1), 0);
	touch_all(5);
	assert_int_equal(world_harvest(&world, 1), 0);
}

static void test_no_split_when_switched_off(void **state)
{
	(void)state;
	world.tunables.eager_page_split = 0;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(splits, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	touch_all(31);
	assert_int_equal(world_harvest(&world, 1), 0);
}

/*
 * With the workaround on, L2 executes by the first name and reads by the second: the pieces that
 * the one has are the child of the other's split, which is completed.
 */
static void test_child_there_in_part(void **state)
{
	(void)state;
	quire_vm_set_nx_huge_pages(world.vm, 1);
	for (uint32_t page = 3; page < 512; page += 100)
		(void)world_check(&world, BLOCK(1) + PAGE(page), WORLD_FETCH);
	(void)world_check(&world, BLOCK(2), WORLD_WRITE);
	(void)world_check(&world, BLOCK(3), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 2);
	/* The switch took all there was: these are pieces of the first name's. */
	assert_in_range(world_stat(&world, QUIRE_VM_STAT_pages_4k), 6, QUIRE_TABLE_ENTRIES / 2);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(splits, 2);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k), 2 * QUIRE_TABLE_ENTRIES);
	touch_all(19);
	assert_int_equal(world_harvest(&world, 1), 0);
}

/* Ahead of a log, on request, and without one. */
static void test_split_on_request(void **state)
{
	uint64_t done = 0, flushes = world_stat(&world, QUIRE_VM_STAT_remote_tlb_flush);

	(void)state;
	assert_int_equal(quire_vm_split(world.vm, 0, (gpa_t){HUGE}, UINT64_C(1) << 21, &done), 0);
	assert_int_equal(done, UINT64_C(1) << 21);
	assert_int_equal(splits, 3);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	/* The pieces map what the huge leaves did, those of a child that was there, too. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_remote_tlb_flush), flushes);
}

/* Pieces of the only name of a block are alone in their rmaps. */
static void test_split_of_one_name(void **state)
{
	uint64_t done = 0;

	(void)state;
	world_set_entry(&world, TABLE_2M, 2, 0);
	world_set_entry(&world, TABLE_2M, 3, 0);
	(void)world_check(&world, BLOCK(1), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	world.vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size] = 0;
	assert_int_equal(quire_vm_split(world.vm, 0, (gpa_t){HUGE}, UINT64_C(1) << 21, &done), 0);
	assert_int_equal(splits, 1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_max_mmu_rmap_size), 1);
}

static int copy_ones(void *ctx, uint64_t offset_bytes, void *dst, uint64_t size_bytes)
{
	(void)ctx;
	(void)offset_bytes;
	memset(dst, 0xff, size_bytes);
	return 0;
}

static void test_split_at_clear(void **state)
{
	struct quire_clear_log clear = {.slot = 1, .npages = 64, .copy_in = copy_ones};

	(void)state;
	assert_int_equal(quire_vm_set_manual_protect(world.vm, INITIALLY_SET), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(splits, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	assert_int_equal(quire_vm_clear_dirty_log(world.vm, &clear), 0);
	assert_int_equal(splits, 3);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	touch_all(13);
}

/* The client allows no more shadow pages: huge mappings stay, without W. */
static void test_quota_refuses(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 60; i++) {
		world_set_entry(&world, TABLE_2M, 10 + i, PAGE(100 + i) | NPT_ALL);
		world_set_entry(&world, 100 + i, 0, PAGE(80) | NPT_ALL);
	}
	/* Writing the table dropped what it mapped. */
	for (uint32_t block = 1; block <= 3; block++)
		(void)world_check(&world, BLOCK(block), WORLD_WRITE);
	for (uint32_t i = 0; world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages) < 59; i++)
		(void)world_check(&world, BLOCK(10 + i), WORLD_READ);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	splits = refusals = 0;
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 64), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(splits, 0);
	assert_int_equal(last_error, -ENOSPC);
	touch_all(63);
	assert_int_equal(world_harvest(&world, 1), 0);
}

static uint64_t faults_of_touching(void)
{
	uint64_t before = quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_taken);

	touch_all(1);
	return quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_taken) - before;
}

/* When logging stops, what can be huge again goes, and nothing else: it would only fault again. */
static void test_recover_what_can_grow(void **state)
{
	uint64_t small, faults;

	(void)state;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	touch_all(1);
	small = world_stat(&world, QUIRE_VM_STAT_pages_4k);
	assert_int_equal(world_slot(&world, 1, 0), 0);
	assert_true(world_stat(&world, QUIRE_VM_STAT_pages_4k) < small);
	touch_all(1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	/* With one page elsewhere the host has no huge page any more. */
	world_migrate(&world, WORLD_SLOT_PAGES + 7);
	touch_all(1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	touch_all(1);
	/* What L1 does not let L2 execute faults each time. */
	faults = faults_of_touching();
	small = world_stat(&world, QUIRE_VM_STAT_pages_4k);
	assert_int_equal(world_slot(&world, 1, 0), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k), small);
	assert_int_equal(faults_of_touching(), faults);
}

/* Every allocation fails once: best effort, and what stays huge has no W. */
static void test_without_memory(void **state)
{
	(void)state;
	for (uint64_t after = 1; after < 8; after++) {
		world.host.fail_at = world.host.allocations + after;
		if (world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY))
			continue;
		world.host.fail_at = 0;
		touch_all(67);
		assert_int_equal(world_harvest(&world, 1), 0);
		assert_int_equal(world_slot(&world, 1, 0), 0);
		for (uint32_t block = 1; block <= 3; block++)
			(void)world_check(&world, BLOCK(block), WORLD_WRITE);
	}
}

/* Stopping the log gives the huge mappings back, starting it splits them again. */
static void test_again_and_again(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 5; round++) {
		assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
		touch_all(101);
		assert_int_equal(world_slot(&world, 1, 0), 0);
		touch_all(101);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 3);
	}
}

/* What stops is flushed: no processor goes on with a piece that the host's next move does not find.
 */
static void test_stop_flushes(void **state)
{
	(void)state;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	(void)world_check(&world, BLOCK(1) + PAGE(5), WORLD_WRITE);
	assert_int_equal(world_slot(&world, 1, 0), 0);
	world_migrate(&world, WORLD_SLOT_PAGES + 5);
	(void)world_check(&world, BLOCK(1) + PAGE(5), WORLD_WRITE);
}

/* A mapping that was armed as a huge one is split by a later CLEAR: all its pieces stay armed. */
static void test_pieces_stay_armed(void **state)
{
	struct quire_clear_log clear = {.slot = 1, .npages = 64, .copy_in = copy_ones};

	(void)state;
	world.tunables.eager_page_split = 0;
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	world.tunables.eager_page_split = 1;
	assert_int_equal(quire_vm_set_manual_protect(world.vm, INITIALLY_SET), 0);
	/* L1 writes one page with a mapping of its own, and the others L2 with the pieces. */
	world_nested(&world, 0);
	assert_int_equal(world_access(&world, HUGE, WORLD_WRITE).outcome, 0);
	assert_int_equal(quire_vm_clear_dirty_log(world.vm, &clear), 0);
	assert_int_equal(splits, 3);
	for (uint32_t page = 0; page < 512; page += 7)
		(void)world_check(&world, BLOCK(1) + PAGE(page), WORLD_WRITE);
	assert_int_equal(world_harvest(&world, 1), 0);
}

#define SPLIT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int split_tests(void)
{
	const struct CMUnitTest tests[] = {
	    SPLIT_TEST(test_split_at_log_start),  SPLIT_TEST(test_no_split_when_switched_off),
	    SPLIT_TEST(test_split_on_request),	  SPLIT_TEST(test_split_at_clear),
	    SPLIT_TEST(test_quota_refuses),	  SPLIT_TEST(test_without_memory),
	    SPLIT_TEST(test_again_and_again),	  SPLIT_TEST(test_stop_flushes),
	    SPLIT_TEST(test_pieces_stay_armed),	  SPLIT_TEST(test_recover_what_can_grow),
	    SPLIT_TEST(test_child_there_in_part), SPLIT_TEST(test_split_of_one_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
