/* One fault fills the empty entries beside its own (F-107): which, and against what changes. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

#define GROUP 8u
#define FIRST 72u /* what entry 0 of L1's table maps: so L1's own group begins there, too */
#define NEW 100u

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_start(&world);
	/* No row of frames any more, so that L1's own mappings are small, too. */
	world_migrate(&world, NEW);
	race_path(&world, NPT_USED);
	for (uint32_t i = 0; i < 2 * GROUP; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(FIRST + i) | NPT_USED);
	return 0;
}

/* Faults that an access of L2's page @i takes. */
static uint64_t faults_at(uint32_t i, enum world_access access)
{
	uint64_t before = world.cpus[0].faults;

	(void)world_check(&world, PAGE(i), access);
	return world.cpus[0].faults - before;
}

/* Without a fault, from @first to before @end; the page at @end takes one. */
static void check_filled(uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++)
		assert_int_equal(faults_at(i, WORLD_WRITE), 0);
	assert_true(faults_at(end, WORLD_WRITE) > 0);
}

static uint64_t requested, set;

static void count_leaves(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	requested += event == QUIRE_TRACE_kvm_mmu_spte_requested;
	set += event == QUIRE_TRACE_kvm_mmu_set_spte;
}

/* One fault, one request, eight leaves; the next group is another fault's. */
static void test_group(void **state)
{
	uint64_t pages, fixed;

	(void)state;
	/* L1's own mappings of the tables go with it. */
	(void)faults_at(2 * GROUP - 1, WORLD_WRITE);
	pages = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k);
	fixed = quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_fixed);
	requested = set = 0;
	quire_trace_install(count_leaves);
	assert_int_equal(faults_at(3, WORLD_READ), 1);
	quire_trace_install(NULL);
	assert_int_equal(requested, 1);
	assert_int_equal(set, GROUP);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k), pages + GROUP);
	assert_int_equal(quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_fixed), fixed + 1);
	for (uint32_t i = 0; i < 2 * GROUP; i++)
		assert_int_equal(faults_at(i, WORLD_WRITE), 0);
}

/* An entry that L1 has not used ends it: the processor would have to set A. So does none at all. */
static void test_ends_with_an_entry(void **state)
{
	(void)state;
	world_put_entry(&world, TABLE_4K, 4, PAGE(FIRST + 4) | NPT_ALL);
	(void)faults_at(0, WORLD_WRITE);
	check_filled(1, 4);
	world_put_entry(&world, TABLE_4K, GROUP + 2, 0);
	(void)faults_at(GROUP, WORLD_WRITE);
	assert_int_equal(faults_at(GROUP + 1, WORLD_WRITE), 0);
	assert_true(faults_at(GROUP + 3, WORLD_WRITE) > 0);
}

/* What L1 lets be read, or has not written through, is not written without a fault. */
static void test_rights(void **state)
{
	(void)state;
	world_put_entry(&world, TABLE_4K, 1, PAGE(FIRST + 1) | NPT_P | NPT_U | NPT_A | NPT_D);
	world_put_entry(&world, TABLE_4K, 2, PAGE(FIRST + 2) | NPT_ALL | NPT_A);
	world_put_entry(&world, TABLE_4K, 3, PAGE(FIRST + 3) | NPT_USED | NPT_NX);
	world_put_entry(&world, TABLE_4K, 4, PAGE(TABLE_2M) | NPT_USED);
	(void)faults_at(0, WORLD_WRITE);
	for (uint32_t i = 1; i < GROUP; i++)
		assert_int_equal(faults_at(i, WORLD_READ), 0);
	assert_true(faults_at(3, WORLD_FETCH) > 0);
	assert_int_equal(faults_at(3, WORLD_WRITE), 0);
	for (uint32_t i = 1; i <= 4; i++)
		if (i != 3)
			assert_true(faults_at(i, WORLD_WRITE) > 0);
}

/* What L2 may not use at all is not mapped: an entry of ours does not say so. */
static void test_what_no_access_may_use(void **state)
{
	uint64_t pages;

	(void)state;
	(void)faults_at(GROUP, WORLD_WRITE);
	pages = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k);
	world_put_entry(&world, TABLE_4K, 2, PAGE(FIRST + 2) | (NPT_USED & ~NPT_U));
	(void)faults_at(0, WORLD_READ);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k), pages + GROUP - 1);
	assert_int_equal(faults_at(3, WORLD_WRITE), 0);
}

/* A page that the host would have to bring, copy or emulate waits for an access. */
static void test_pages_that_are_not_there(void **state)
{
	static const uint32_t flags[] = {SIM_WRITABLE | SIM_SLOW, SIM_WRITABLE | SIM_DEVICE, 0};

	(void)state;
	for (uint32_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		hva_t start = sim_hva(FIRST), end = sim_hva(FIRST + GROUP);

		quire_vm_host_invalidate_begin(world.vm, start, end);
		sim_unmap(&world.host, FIRST + 5);
		sim_map(&world.host, FIRST + 5, flags[i]);
		quire_vm_host_invalidate_end(world.vm, start, end);
		assert_true(faults_at(0, WORLD_READ) > 0);
		for (uint32_t page = 1; page < 5; page++)
			assert_int_equal(faults_at(page, WORLD_WRITE), 0);
		assert_true(faults_at(5, WORLD_READ) > 0);
	}
}

/* W would be marked in the log; what may only be read is not. */
static void test_logged(void **state)
{
	(void)state;
	assert_int_equal(world_slot(&world, 0, QUIRE_SLOT_LOG_DIRTY), 0);
	world_put_entry(&world, TABLE_4K, 1, PAGE(FIRST + 1) | NPT_P | NPT_U | NPT_A);
	(void)faults_at(0, WORLD_READ);
	assert_int_equal(faults_at(1, WORLD_READ), 0);
	assert_true(faults_at(2, WORLD_READ) > 0);
	assert_int_equal(world_harvest(&world, 0), 0);
}

static void test_slot_that_may_not_be_written(void **state)
{
	(void)state;
	assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_READONLY), 0);
	for (uint32_t i = 0; i < GROUP; i++)
		world_put_entry(&world, TABLE_4K, i, PAGE(WORLD_SLOT_PAGES + i) | NPT_USED);
	(void)faults_at(0, WORLD_READ);
	assert_true(faults_at(1, WORLD_READ) > 0);
}

/* A use of entry 0 maps those before entry 5, which is none for a neighbour. */
static void check_fifth_ends_it(void)
{
	uint64_t pages;

	(void)faults_at(GROUP, WORLD_WRITE);
	pages = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k);
	assert_int_equal(faults_at(0, WORLD_READ), 1);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k), pages + 5);
}

/* A private page is not mapped ahead of an access. Where shadow pages serve L1 there are none. */
static void test_private(void **state)
{
	(void)state;
	if (world_mmu == QUIRE_MMU_SHADOW)
		return;
	world_stop_vm(&world);
	world_type = QUIRE_VM_SW_PROTECTED;
	world_start_vm(&world);
	world_type = QUIRE_VM_DEFAULT;
	assert_int_equal(quire_vm_set_attributes(world.vm, (gpa_t){PAGE(FIRST + 5)}, PAGE(1),
						 QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	check_fifth_ends_it();
}

static uint64_t strange_there(void *ctx, hva_t hva, uint32_t npages, struct quire_page *pages)
{
	uint64_t there = sim_host_ops.pages_there(ctx, hva, npages, pages);

	for (uint32_t i = 0; i < npages; i++)
		if (hva.v + PAGE(i) == sim_hva(FIRST + 5).v)
			pages[i].memtype = QUIRE_MEMTYPE_WC + 1;
	return there;
}

/* A page that no leaf can map: its reference goes back (world_stop()). */
static void test_page_of_no_known_type(void **state)
{
	(void)state;
	world.ops.pages_there = strange_there;
	check_fifth_ends_it();
}

/* No access has used it: the first to ask finds it old. */
static void test_is_old(void **state)
{
	(void)state;
	(void)faults_at(0, WORLD_WRITE);
	assert_int_equal(
	    quire_vm_age(world.vm, sim_hva(FIRST + 1), sim_hva(FIRST + GROUP), QUIRE_AGE_TEST), 0);
	(void)faults_at(1, WORLD_READ);
	assert_int_equal(
	    quire_vm_age(world.vm, sim_hva(FIRST + 1), sim_hva(FIRST + 2), QUIRE_AGE_TEST), 1);
}

/* L1's own faults, where shadow pages serve it; the TDP MMU maps nothing ahead. */
static void test_of_l1(void **state)
{
	uint64_t more = world_mmu == QUIRE_MMU_SHADOW ? 0 : 1;

	(void)state;
	for (uint32_t i = 0; i < GROUP; i++) {
		uint64_t before = world.cpus[0].faults;

		assert_int_equal(world_access(&world, PAGE(FIRST + i), WORLD_WRITE).outcome, 0);
		assert_int_equal(world.cpus[0].faults - before, i ? more : 1);
	}
}

/* Of a run of L1's own pages those before the first that is missing; the run behind it, too. */
static void test_runs_of_l1(void **state)
{
	uint64_t before;

	(void)state;
	if (world_mmu != QUIRE_MMU_SHADOW)
		return;
	sim_unmap(&world.host, FIRST + 2);
	sim_map(&world.host, FIRST + 2, SIM_WRITABLE | SIM_SLOW);
	(void)world_access(&world, PAGE(FIRST + 4), WORLD_WRITE);
	before = world.cpus[0].faults;
	for (uint32_t i = 0; i < GROUP; i++)
		if (i != 2 && i != 3)
			(void)world_access(&world, PAGE(FIRST + i), WORLD_WRITE);
	assert_int_equal(world.cpus[0].faults, before);
	(void)world_access(&world, PAGE(FIRST + 3), WORLD_WRITE);
	assert_int_equal(world.cpus[0].faults, before + 1);
}

/* --- against changes: L2 uses entry 0, and entry 1 or its page changes meanwhile --- */

static struct world_result late;
static int done;

static void start(void *ctx)
{
	(void)ctx;
	world_start_vm(&world);
	race_path(&world, NPT_USED);
	for (uint32_t i = 0; i < GROUP; i++)
		world_put_entry(&world, TABLE_4K, i, i < 2 ? PAGE(FIRST + i) | NPT_USED : 0);
	world_put_entry(&world, TABLE_4K, GROUP, PAGE(NEW) | NPT_USED);
	world_nested(&world, 1);
	/* The tables are shadowed already: half of the runs would be about that. */
	(void)world_access(&world, PAGE(GROUP), WORLD_READ);
	done = 0;
}

static void use_first(void)
{
	(void)world_access(&world, PAGE(0), WORLD_READ);
}

static bool check_second(uint64_t gfn)
{
	late = world_access(&world, PAGE(1), WORLD_WRITE);
	world_stop_vm(&world);
	return done && !late.outcome && late.host == world_page(&world, gfn);
}

static void migrate_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		use_first();
		return;
	}
	world_migrate(&world, FIRST + 1);
	done = 1;
}

static bool migrate_check(void *ctx)
{
	(void)ctx;
	return check_second(FIRST + 1);
}

/* The hypervisor changes L1's entry. */
static void entry_body(uint32_t thread, void *ctx)
{
	uint64_t entry = PAGE(NEW) | NPT_USED;

	(void)ctx;
	if (thread == 0) {
		use_first();
		return;
	}
	done = quire_vm_write(world.vm, (gpa_t){PAGE(TABLE_4K) + sizeof(entry)}, &entry,
			      sizeof(entry)) == 0;
}

static bool entry_check(void *ctx)
{
	(void)ctx;
	return check_second(NEW);
}

/* L1 changes it, on another processor, and flushes. */
static void flush_setup(void *ctx)
{
	start(ctx);
	world_add_cpu(&world);
}

static void flush_body(uint32_t thread, void *ctx)
{
	uint64_t entry = PAGE(NEW) | NPT_USED;
	struct world_result result;

	(void)ctx;
	if (thread == 0) {
		use_first();
		return;
	}
	result = world_access_on(&world, 1, PAGE(TABLE_4K) + sizeof(entry), WORLD_WRITE);
	if (result.outcome)
		return;
	memcpy(result.host, &entry, sizeof(entry));
	quire_vcpu_flush_nested(world.cpus[1].vcpu);
	world_nested_on(&world, 1, 1);
	late = world_access_on(&world, 1, PAGE(1), WORLD_WRITE);
	done = !late.outcome && late.host == world_page(&world, NEW);
}

static bool flush_check(void *ctx)
{
	(void)ctx;
	world_stop_vm(&world);
	return done;
}

/* The slot goes: what was its memory is the client's again. */
static void delete_body(uint32_t thread, void *ctx)
{
	(void)ctx;
	if (thread == 0) {
		use_first();
		return;
	}
	done = world_slot(&world, 0, UINT32_MAX) == 0;
}

static bool delete_check(void *ctx)
{
	bool empty = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_4k) == 0;

	(void)ctx;
	world_stop_vm(&world);
	return done && empty;
}

static void test_migration(void **state)
{
	(void)state;
	race_explore(start, migrate_body, migrate_check);
}

static void test_entry(void **state)
{
	(void)state;
	race_explore(start, entry_body, entry_check);
}

static void test_flush(void **state)
{
	(void)state;
	race_explore(flush_setup, flush_body, flush_check);
}

static void test_deletion(void **state)
{
	(void)state;
	race_explore_once(start, delete_body, delete_check);
}

int neighbour_tests(void)
{
#define NEIGHBOUR_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)
	const struct CMUnitTest tests[] = {
	    NEIGHBOUR_TEST(test_group),
	    NEIGHBOUR_TEST(test_ends_with_an_entry),
	    NEIGHBOUR_TEST(test_rights),
	    NEIGHBOUR_TEST(test_what_no_access_may_use),
	    NEIGHBOUR_TEST(test_pages_that_are_not_there),
	    NEIGHBOUR_TEST(test_logged),
	    NEIGHBOUR_TEST(test_slot_that_may_not_be_written),
	    NEIGHBOUR_TEST(test_private),
	    NEIGHBOUR_TEST(test_page_of_no_known_type),
	    NEIGHBOUR_TEST(test_is_old),
	    NEIGHBOUR_TEST(test_of_l1),
	    NEIGHBOUR_TEST(test_runs_of_l1),
	};
#undef NEIGHBOUR_TEST

	return cmocka_run_group_tests(tests, NULL, NULL);
}

int neighbour_race_tests(void)
{
	const struct CMUnitTest races[] = {
	    cmocka_unit_test(test_migration),
	    cmocka_unit_test(test_entry),
	    cmocka_unit_test(test_flush),
	    cmocka_unit_test(test_deletion),
	};

	int failed;

	race_has_neighbours = true;
	failed = race_run(&world, "neighbour races", races, sizeof(races) / sizeof(races[0]));
	race_has_neighbours = false;
	return failed;
}
