/* Shadow pages that lag behind L1's tables: when they may, and that each flush ends it. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_2M 5u

/* The first processor is L1's, the second runs L2. */
#define L1 0u
#define L2 1u

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	for (uint32_t i = 0; i < 16; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_USED);
	world_nested_on(&world, L2, 1);
	return 0;
}

static uint8_t *l2_host(uint64_t gpa, enum world_access access)
{
	struct world_result result = world_access_on(&world, L2, gpa, access);

	return result.outcome ? NULL : result.host;
}

static void flush(void)
{
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
}

/* L2 has used pages 0 to 15; L1 has written the table since. */
static void let_lag(void)
{
	for (uint32_t i = 0; i < 16; i++)
		assert_non_null(l2_host(PAGE(i), WORLD_WRITE));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	world_set_entry(&world, TABLE_4K, 0, PAGE(100) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
}

/* L1's flush drops what the processor remembers of L2, too, at the next entry alone. */
static void test_flush_is_the_processors(void **state)
{
	struct quire_vcpu *vcpu = world.cpus[L2].vcpu;
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	assert_non_null(l2_host(PAGE(0), WORLD_WRITE));
	for (uint32_t entry = 0; entry < 3; entry++) {
		if (entry == 1)
			flush();
		assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(vcpu);
		assert_int_equal(requests & QUIRE_REQ_TLB_FLUSH,
				 entry == 1 ? QUIRE_REQ_TLB_FLUSH : 0);
		/* The simulated machine has its tables where its pointers say. */
		assert_int_equal(stage2.root_physical, (uintptr_t)stage2.root);
	}
}

static void test_one_fault_for_many_writes(void **state)
{
	uint64_t zapped, faults;

	(void)state;
	let_lag();
	zapped = world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped);
	faults = world.cpus[L1].faults;
	for (uint32_t i = 1; i < 16; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(100 + i) | NPT_USED);
	assert_int_equal(world.cpus[L1].faults, faults);
	/* What it had it may keep, until it is flushed. */
	faults = world.cpus[L2].faults;
	assert_ptr_equal(l2_host(PAGE(3), WORLD_WRITE), world_page(&world, 73));
	assert_int_equal(world.cpus[L2].faults, faults);
	flush();
	for (uint32_t i = 0; i < 16; i++)
		assert_ptr_equal(l2_host(PAGE(i), WORLD_WRITE), world_page(&world, 100 + i));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped), zapped);
	/* It follows again: the next write is noticed. */
	faults = world.cpus[L1].faults;
	world_set_entry(&world, TABLE_4K, 1, PAGE(71) | NPT_USED);
	assert_true(world.cpus[L1].faults > faults);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
}

/* What L1 has not changed stays mapped over the flush, wherever in the table it is. */
static void test_the_rest_stays(void **state)
{
	static const uint32_t far[] = {62, 63, 64, 127, 300, 511};
	uint64_t faults;

	(void)state;
	for (uint32_t i = 0; i < 6; i++)
		world_set_entry(&world, TABLE_4K, far[i], PAGE(90 + i) | NPT_USED);
	for (uint32_t i = 0; i < 6; i++)
		assert_non_null(l2_host(PAGE(far[i]), WORLD_WRITE));
	let_lag();
	flush();
	(void)l2_host(PAGE(0), WORLD_WRITE);
	faults = world.cpus[L2].faults;
	for (uint32_t i = 1; i < 16; i++)
		assert_ptr_equal(l2_host(PAGE(i), WORLD_WRITE), world_page(&world, 70 + i));
	for (uint32_t i = 0; i < 6; i++)
		assert_ptr_equal(l2_host(PAGE(far[i]), WORLD_WRITE), world_page(&world, 90 + i));
	assert_int_equal(world.cpus[L2].faults, faults);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k) > 15, 1);
}

/* Each right that L1 takes is taken at the flush. */
static void test_rights_taken_back(void **state)
{
	struct world_result result;

	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		assert_non_null(l2_host(PAGE(i), WORLD_FETCH));
	let_lag();
	world_set_entry(&world, TABLE_4K, 1, PAGE(71) | (NPT_USED & ~NPT_W));
	world_set_entry(&world, TABLE_4K, 2, PAGE(72) | NPT_USED | NPT_NX);
	world_set_entry(&world, TABLE_4K, 3, PAGE(73) | (NPT_USED & ~NPT_U));
	world_set_entry(&world, TABLE_4K, 4, 0);
	world_set_entry(&world, TABLE_4K, 5, PAGE(75) | (NPT_USED & ~NPT_D));
	world_set_entry(&world, TABLE_4K, 6, PAGE(76) | (NPT_USED & ~(NPT_A | NPT_D)));
	world_set_entry(&world, TABLE_4K, 7, PAGE(77) | NPT_USED | UINT64_C(1) << 50);
	flush();
	assert_ptr_equal(l2_host(PAGE(1), WORLD_READ), world_page(&world, 71));
	assert_null(l2_host(PAGE(1), WORLD_WRITE));
	assert_ptr_equal(l2_host(PAGE(2), WORLD_WRITE), world_page(&world, 72));
	assert_null(l2_host(PAGE(2), WORLD_FETCH));
	assert_null(l2_host(PAGE(3), WORLD_READ));
	assert_null(l2_host(PAGE(4), WORLD_READ));
	result = world_access_on(&world, L2, PAGE(7), WORLD_READ);
	assert_int_equal(result.outcome, QUIRE_NESTED_FAULT);
	assert_true(result.error & QUIRE_PFERR_RSVD);
	/* The accesses that L1 wants to hear of set the bits again. */
	assert_non_null(l2_host(PAGE(5), WORLD_WRITE));
	assert_true(world_page(&world, TABLE_4K)[5 * 8] & NPT_D);
	assert_non_null(l2_host(PAGE(6), WORLD_READ));
	assert_true(world_page(&world, TABLE_4K)[6 * 8] & NPT_A);
}

/* A new run of L2 is a flush, whichever vCPU runs it. */
static void test_entering_l2_syncs(void **state)
{
	(void)state;
	let_lag();
	world_nested_on(&world, L2, 0);
	world_nested_on(&world, L2, 1);
	assert_ptr_equal(l2_host(PAGE(0), WORLD_WRITE), world_page(&world, 100));
	world_set_entry(&world, TABLE_4K, 0, PAGE(70) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	assert_ptr_equal(world_check(&world, PAGE(0), WORLD_WRITE).host, world_page(&world, 70));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
}

/* Through an entry of L1's that was never used L2 has no old translation to keep. */
static void test_new_path_needs_no_flush(void **state)
{
	const uint64_t other = UINT64_C(1) << 30;

	(void)state;
	world_set_entry(&world, TABLE_1G, 1, PAGE(OTHER_2M) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 0, PAGE(TABLE_4K) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 1, PAGE(TABLE_4K) | NPT_ALL);
	let_lag();
	world_set_entry(&world, TABLE_4K, 1, PAGE(101) | NPT_USED);
	assert_ptr_equal(l2_host(other + PAGE(2), WORLD_READ), world_page(&world, 72));
	assert_ptr_equal(l2_host(other + PAGE(1), WORLD_READ), world_page(&world, 101));
	assert_ptr_equal(l2_host(other + PAGE(0), WORLD_READ), world_page(&world, 100));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	world_set_entry(&world, TABLE_4K, 1, PAGE(102) | NPT_USED);
	assert_ptr_equal(l2_host(other + BLOCK(1) + PAGE(1), WORLD_READ), world_page(&world, 102));
}

/* The same where the entry leads to a table above the one that lags. */
static void test_new_path_to_a_directory(void **state)
{
	const uint64_t other = UINT64_C(1) << 30;

	(void)state;
	world_set_entry(&world, TABLE_1G, 1, PAGE(TABLE_2M) | NPT_ALL);
	world_set_entry(&world, TABLE_1G, 2, PAGE(TABLE_2M) | NPT_ALL);
	let_lag();
	world_set_entry(&world, TABLE_4K, 1, PAGE(101) | NPT_USED);
	assert_ptr_equal(l2_host(other + PAGE(2), WORLD_READ), world_page(&world, 72));
	assert_ptr_equal(l2_host(other + PAGE(1), WORLD_READ), world_page(&world, 101));
	assert_ptr_equal(l2_host(other + PAGE(0), WORLD_READ), world_page(&world, 100));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	world_set_entry(&world, TABLE_4K, 2, PAGE(102) | NPT_USED);
	assert_ptr_equal(l2_host(2 * other + PAGE(3), WORLD_READ), world_page(&world, 73));
	assert_ptr_equal(l2_host(2 * other + PAGE(2), WORLD_READ), world_page(&world, 102));
}

/* The same table at two levels: it cannot lag. */
static void test_upper_levels_do_not_lag(void **state)
{
	(void)state;
	let_lag();
	world_set_entry(&world, TABLE_1G, 1, PAGE(TABLE_4K) | NPT_ALL);
	/* As a directory, entry 2 leads to page 72 as a table. */
	world_set_entry(&world, 72, 3, PAGE(90) | NPT_USED);
	flush();
	assert_non_null(l2_host(PAGE(3), WORLD_READ));
	world_set_entry(&world, TABLE_4K, 9, PAGE(109) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	assert_ptr_equal(l2_host((UINT64_C(1) << 30) + BLOCK(2) + PAGE(3), WORLD_READ),
			 world_page(&world, 90));
	/* It went when its table became a directory too. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_non_null(l2_host(PAGE(3), WORLD_READ));
	world_set_entry(&world, TABLE_4K, 3, PAGE(103) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_ptr_equal(l2_host(PAGE(3), WORLD_READ), world_page(&world, 103));
}

/* More pages than one batch, of which some are written again; and some in two roles. */
static void test_many_tables(void **state)
{
	const uint32_t tables = 30;

	(void)state;
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, 200), 0);
	for (uint32_t i = 0; i < tables; i++) {
		world_set_entry(&world, 20 + i, 1, PAGE(70 + i) | NPT_USED);
		world_set_entry(&world, TABLE_2M, 10 + i, PAGE(20 + i) | NPT_ALL);
		world_set_entry(&world, TABLE_2M, 100 + i, PAGE(20 + i) | NPT_ALL | NPT_NX);
	}
	for (uint32_t round = 0; round < 3; round++) {
		flush();
		for (uint32_t i = 0; i < tables; i++) {
			uint8_t *page = world_page(&world, 70 + i + round);

			assert_ptr_equal(l2_host(BLOCK(10 + i) + PAGE(1), WORLD_READ), page);
			assert_ptr_equal(l2_host(BLOCK(100 + i) + PAGE(1), WORLD_READ), page);
		}
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
		for (uint32_t i = 0; i < tables; i++)
			world_set_entry(&world, 20 + i, 1, PAGE(71 + i + round) | NPT_USED);
		assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 2 * tables);
	}
	/* Pages that lag go like others. */
	assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
}

/* A second page of a table that lags is up to date when it comes, and lags from the next write on.
 */
static void test_second_role(void **state)
{
	const uint64_t second = BLOCK(100);

	(void)state;
	world_set_entry(&world, TABLE_2M, 100, PAGE(TABLE_4K) | NPT_ALL | NPT_NX);
	let_lag();
	assert_ptr_equal(l2_host(second, WORLD_READ), world_page(&world, 100));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	world_set_entry(&world, TABLE_4K, 0, PAGE(101) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 2);
	flush();
	assert_ptr_equal(l2_host(PAGE(0), WORLD_READ), world_page(&world, 101));
	assert_ptr_equal(l2_host(second, WORLD_READ), world_page(&world, 101));
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
}

/* Writes to a table are in the log although no fault says so any more. */
static void test_dirty_log(void **state)
{
	(void)state;
	let_lag();
	assert_int_equal(world_slot(&world, 0, QUIRE_SLOT_LOG_DIRTY), 0);
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < 4; i++)
			world_set_entry(&world, TABLE_4K, i, PAGE(100 + i + round) | NPT_USED);
		flush();
		for (uint32_t i = 0; i < 4; i++) {
			assert_non_null(l2_host(PAGE(i), WORLD_WRITE));
			world.written[100 + i + round] = 1;
		}
		assert_int_equal(world_harvest(&world, 0), 0);
	}
}

#define UNSYNC_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int unsync_tests(void)
{
	const struct CMUnitTest tests[] = {
	    UNSYNC_TEST(test_flush_is_the_processors),
	    UNSYNC_TEST(test_one_fault_for_many_writes),
	    UNSYNC_TEST(test_the_rest_stays),
	    UNSYNC_TEST(test_rights_taken_back),
	    UNSYNC_TEST(test_entering_l2_syncs),
	    UNSYNC_TEST(test_new_path_needs_no_flush),
	    UNSYNC_TEST(test_new_path_to_a_directory),
	    UNSYNC_TEST(test_upper_levels_do_not_lag),
	    UNSYNC_TEST(test_many_tables),
	    UNSYNC_TEST(test_second_role),
	    UNSYNC_TEST(test_dirty_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
