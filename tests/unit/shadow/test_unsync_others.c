/*
 * Shadow pages that lag, among others: in one bucket, at one gfn, below many parents; and what L1
 * and the client change while the library reads a table that it catches up with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <quire/trace.h>

#include "src/change/change.h"
#include "src/fault/fault.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

#define OTHER_2M 5u
#define NEAR 20u
/* The client page that slot 2 shows, far from the others. */
#define FAR_PAGE 200u

/* The first processor is L1's, the second runs L2. */
#define L1 0u
#define L2 1u

static struct world world;
static uint32_t unsyncs, syncs;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	(void)args;
	unsyncs += event == QUIRE_TRACE_kvm_mmu_unsync_page;
	syncs += event == QUIRE_TRACE_kvm_mmu_sync_page;
}

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	world_nested_on(&world, L2, 1);
	unsyncs = syncs = 0;
	quire_trace_install(record);
	return 0;
}

static uint64_t lagging(void)
{
	return quire_vm_stat(world.vm, QUIRE_VM_STAT_mmu_unsync);
}

static void flush(void)
{
	quire_vcpu_flush_nested(world.cpus[L2].vcpu);
}

/* L2 finds @page at @gpa. */
static void finds(uint64_t gpa, uint32_t page)
{
	struct world_result result = world_access_on(&world, L2, gpa, WORLD_READ);

	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(&world, page));
}

static void maps(uint64_t table, uint32_t page)
{
	world_set_entry(&world, table, 1, PAGE(page) | NPT_USED);
}

/* A gfn beyond the slots whose pages are in the bucket of @gfn's. */
static uint64_t same_bucket(uint64_t gfn)
{
	uint64_t far = WORLD_PAGES;

	while (shadow_bucket((gfn_t){far}) != shadow_bucket((gfn_t){gfn}))
		far++;
	return far;
}

/* Slot 2: one page at @gfn. */
static void show_far(uint64_t gfn)
{
	struct quire_region region = {
	    .slot = 2, .gpa = {PAGE(gfn)}, .size_bytes = PAGE(1), .hva = sim_hva(FAR_PAGE)};

	assert_int_equal(quire_vm_set_region(world.vm, &region), 0);
}

/* Two tables of one bucket: each lags, catches up and goes for itself. */
static void test_one_bucket(void **state)
{
	uint64_t far = same_bucket(NEAR);

	(void)state;
	show_far(far);
	maps(NEAR, 70);
	world_put_entry(&world, FAR_PAGE, 1, PAGE(80) | NPT_USED);
	world_set_entry(&world, TABLE_2M, 10, PAGE(NEAR) | NPT_ALL);
	world_set_entry(&world, TABLE_2M, 11, PAGE(far) | NPT_ALL);
	for (uint32_t round = 0; round < 2; round++) {
		/* The one that came last is the first of the bucket. */
		finds(round ? BLOCK(11) + PAGE(1) : BLOCK(10) + PAGE(1), round ? 80 : 70);
		finds(round ? BLOCK(10) + PAGE(1) : BLOCK(11) + PAGE(1), round ? 70 : 80);
		assert_int_equal(lagging(), 0);
		maps(NEAR, 71);
		assert_int_equal(lagging(), 1);
		flush();
		finds(BLOCK(10) + PAGE(1), 71);
		assert_int_equal(lagging(), 0);
		finds(BLOCK(11) + PAGE(1), 80);
		/* L1 writes a table above them: both come again, in the same order. */
		world_set_entry(&world, TABLE_1G, 1, PAGE(NEAR) | NPT_ALL);
		world_put_entry(&world, 70, 3, PAGE(90) | NPT_USED);
		finds(round ? BLOCK(11) + PAGE(1) : BLOCK(10) + PAGE(1), round ? 80 : 71);
		finds(round ? BLOCK(10) + PAGE(1) : BLOCK(11) + PAGE(1), round ? 71 : 80);
		/* The near one lags when it becomes a directory, too: it goes, the far one stays.
		 */
		maps(NEAR, 70);
		assert_int_equal(lagging(), 1);
		finds((UINT64_C(1) << 30) + BLOCK(1) + PAGE(3), 90);
		assert_int_equal(lagging(), 0);
		finds(BLOCK(11) + PAGE(1), 80);
		/* A write to it now takes both its pages, and leaves the far one's. */
		maps(NEAR, 70);
		world_set_entry(&world, TABLE_1G, 1, 0);
		assert_int_equal(world_slot(&world, 1, 0), 0);
	}
	assert_true(unsyncs >= 4 && syncs >= 2);
}

/* A page of a huge mapping's pieces has the gfn of a table that L1 has put there. */
static void test_one_gfn(void **state)
{
	const uint64_t gfn = WORLD_SLOT_PAGES;
	uint64_t bytes = 0;

	(void)state;
	maps(gfn, 70);
	world_set_entry(&world, TABLE_2M, 10, PAGE(gfn) | NPT_ALL);
	world_set_entry(&world, TABLE_2M, 11, PAGE(gfn) | NPT_ALL | NPT_PS);
	for (uint32_t round = 0; round < 2; round++) {
		finds(BLOCK(10) + PAGE(1), 70);
		finds(BLOCK(11) + PAGE(3), WORLD_SLOT_PAGES + 3);
		assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m), 0);
		maps(gfn, 71);
		assert_int_equal(lagging(), 1);
		flush();
		finds(BLOCK(10) + PAGE(1), 71);
		assert_int_equal(lagging(), 0);
		/* The hypervisor's stores: an accessed bit, half an entry, and part of two. */
		bytes = PAGE(70) | NPT_USED;
		assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(gfn) + 8}, &bytes, 8),
				 0);
		finds(BLOCK(10) + PAGE(1), 70);
		assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(gfn) + 8}, &bytes, 1),
				 0);
		finds(BLOCK(10) + PAGE(1), 70);
		bytes >>= 8;
		assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(gfn) + 9}, &bytes, 1),
				 0);
		finds(BLOCK(10) + PAGE(1), 70);
		assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(gfn) + 9}, &bytes, 2),
				 0);
		finds(BLOCK(10) + PAGE(1), 70);
		finds(BLOCK(11) + PAGE(3), WORLD_SLOT_PAGES + 3);
	}
}

/* Below so many parents that the library does not look at all of them: it catches up. */
static void test_many_parents(void **state)
{
	const uint64_t gigabyte = UINT64_C(1) << 30;

	(void)state;
	maps(TABLE_4K, 70);
	for (uint32_t i = 0; i < 80; i++) {
		world_set_entry(&world, TABLE_2M, i, PAGE(TABLE_4K) | NPT_ALL);
		finds(BLOCK(i) + PAGE(1), 70);
	}
	maps(NEAR, 75);
	world_set_entry(&world, OTHER_2M, 0, PAGE(NEAR) | NPT_ALL);
	world_set_entry(&world, TABLE_1G, 1, PAGE(OTHER_2M) | NPT_ALL);
	for (uint32_t i = 0; i < 80; i++)
		finds(BLOCK(i) + PAGE(1), 70);
	finds(gigabyte + PAGE(1), 75);
	maps(TABLE_4K, 71);
	assert_int_equal(lagging(), 1);
	/* A new way to tables that are not above the one that lags. */
	world_put_entry(&world, TABLE_1G, 2, PAGE(OTHER_2M) | NPT_ALL);
	finds(2 * gigabyte + PAGE(1), 75);
	assert_int_equal(lagging(), 0);
	finds(PAGE(1), 71);
}

/* While the library reads a table of L1's: @meanwhile, once. */
static void (*meanwhile)(void);

static int load_u64(void *ctx, hva_t src, uint64_t *value)
{
	void (*now)(void) = meanwhile;
	int err = sim_host_ops.load_u64(ctx, src, value);

	meanwhile = NULL;
	if (now)
		now();
	return err;
}

static void catch_up(void (*change)(void))
{
	flush();
	meanwhile = change;
	(void)world_access_on(&world, L2, PAGE(2), WORLD_READ);
	assert_null(meanwhile);
}

static void write_again(void)
{
	maps(TABLE_4K, 75);
}

static void become_directory(void)
{
	world_set_entry(&world, TABLE_1G, 1, PAGE(TABLE_4K) | NPT_ALL);
	world_put_entry(&world, 70, 3, PAGE(90) | NPT_USED);
	(void)world_access_on(&world, L1, PAGE(1), WORLD_READ);
	world_nested(&world, 1);
	(void)world_access(&world, (UINT64_C(1) << 30) + BLOCK(1) + PAGE(3), WORLD_READ);
	world_nested(&world, 0);
}

static void memory_goes(void)
{
	assert_int_equal(world_slot(&world, 0, UINT32_MAX), 0);
}

static void let_lag(void)
{
	maps(TABLE_4K, 70);
	world_set_entry(&world, TABLE_4K, 2, PAGE(72) | NPT_USED);
	finds(PAGE(1), 70);
	finds(PAGE(2), 72);
	maps(TABLE_4K, 71);
	assert_int_equal(lagging(), 1);
	world.ops.load_u64 = load_u64;
}

/* What L1 writes after its table was read is what L2 finds at its next flush, at the latest. */
static void test_written_meanwhile(void **state)
{
	(void)state;
	let_lag();
	catch_up(write_again);
	assert_int_equal(lagging(), 1);
	flush();
	finds(PAGE(1), 75);
	assert_int_equal(lagging(), 0);
	assert_true(syncs >= 2);
}

static void test_gone_meanwhile(void **state)
{
	(void)state;
	let_lag();
	catch_up(become_directory);
	flush();
	finds(PAGE(2), 72);
	assert_int_equal(lagging(), 0);
}

/* The table's memory goes while it is read: nothing that it mapped stays. */
static void test_memory_goes_meanwhile(void **state)
{
	struct world_result result;

	(void)state;
	let_lag();
	catch_up(memory_goes);
	flush();
	result = world_access_on(&world, L2, PAGE(2), WORLD_READ);
	assert_int_not_equal(result.outcome, 0);
	assert_int_equal(lagging(), 0);
}

/* Entries of all words of a shadow table, of which the first and the last of a word. */
static const uint32_t some[] = {1, 63, 64, 127, 128, 511};
#define SOME (sizeof(some) / sizeof(some[0]))

static void map_some(void)
{
	for (uint32_t i = 0; i < SOME; i++)
		world_set_entry(&world, TABLE_4K, some[i], PAGE(70 + i) | NPT_USED);
	for (uint32_t i = 0; i < SOME; i++)
		finds(PAGE(some[i]), 70 + i);
}

/* Each entry that L1 takes away is gone for L2 after a flush, wherever it stands. */
static void test_each_entry_is_compared(void **state)
{
	(void)state;
	map_some();
	for (uint32_t i = 0; i < SOME; i++) {
		world_set_entry(&world, TABLE_4K, some[i], 0);
		assert_int_equal(lagging(), 1);
		flush();
		assert_int_equal(world_access_on(&world, L2, PAGE(some[i]), WORLD_READ).outcome,
				 QUIRE_NESTED_FAULT);
		assert_int_equal(lagging(), 0);
		for (uint32_t rest = i + 1; rest < SOME; rest++)
			finds(PAGE(some[rest]), 70 + rest);
	}
}

/* Of L1's table those entries are read that L2 has mapped, whatever the batch before had. */
static void test_batch_names_what_is_mapped(void **state)
{
	struct quire_vcpu *vcpu = world.cpus[L2].vcpu;
	uint64_t mapped[QUIRE_TABLE_ENTRIES / 64] = {0};
	struct shadow_change change;
	struct shadow_sync sync;
	struct flush_debt debt;

	(void)state;
	map_some();
	for (uint32_t i = 0; i < SOME; i++)
		mapped[some[i] / 64] |= UINT64_C(1) << some[i] % 64;
	maps(TABLE_4K, 80);
	assert_int_equal(shadow_reserve(vcpu), 0);
	memset(&sync, 0xff, sizeof(sync));
	sync.only = NULL;
	change_lock(world.vm, &debt);
	change = shadow_change_of(vcpu, &debt);
	sync.root = vcpu->shadow.page;
	assert_int_equal(shadow_sync_begin(&change, &sync), 1);
	assert_memory_equal(sync.pages[0].present, mapped, sizeof(mapped));
	tdp_zap_range(world.vm, 1, (gfn_t){TABLE_4K}, (gfn_t){TABLE_4K + 1}, &debt);
	change_settle_unlock(world.vm, &debt);
	shadow_sync_read(vcpu, &sync);
	change_lock(world.vm, &debt);
	shadow_sync_end(&change, vcpu, &sync);
	change_settle_unlock(world.vm, &debt);
	assert_int_equal(lagging(), 0);
	finds(PAGE(1), 80);
}

/* A page that lags and has just lost its parents is not caught up with: it is the next to go. */
static void test_orphan_is_passed_over(void **state)
{
	struct quire_vcpu *vcpu = world.cpus[L2].vcpu;
	struct shadow_sync sync = {.only = NULL};
	struct shadow_change change;
	struct flush_debt debt;

	(void)state;
	map_some();
	maps(TABLE_4K, 80);
	assert_int_equal(lagging(), 1);
	assert_int_equal(shadow_reserve(vcpu), 0);
	change_lock(world.vm, &debt);
	change = shadow_change_of(vcpu, &debt);
	assert_true(shadow_zap_gfn(world.vm, vcpu->as_id, (gfn_t){TABLE_2M}, &debt));
	assert_int_equal(lagging(), 1);
	sync.root = vcpu->shadow.page;
	assert_int_equal(shadow_sync_begin(&change, &sync), 0);
	change_settle_unlock(world.vm, &debt);
	assert_int_equal(lagging(), 0);
	finds(PAGE(1), 80);
}

/* What is linked already is as old as a TLB: another entry of it is mapped, and it goes on lagging.
 */
static void test_linked_path_goes_on_lagging(void **state)
{
	(void)state;
	maps(TABLE_4K, 70);
	finds(PAGE(1), 70);
	world_set_entry(&world, TABLE_4K, 64, PAGE(71) | NPT_USED);
	assert_int_equal(lagging(), 1);
	finds(PAGE(64), 71);
	assert_int_equal(lagging(), 1);
	flush();
	finds(PAGE(64), 71);
	assert_int_equal(lagging(), 0);
}

#define OTHERS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int unsync_others_tests(void)
{
	const struct CMUnitTest tests[] = {
	    OTHERS_TEST(test_one_bucket),
	    OTHERS_TEST(test_one_gfn),
	    OTHERS_TEST(test_many_parents),
	    OTHERS_TEST(test_written_meanwhile),
	    OTHERS_TEST(test_gone_meanwhile),
	    OTHERS_TEST(test_memory_goes_meanwhile),
	    OTHERS_TEST(test_each_entry_is_compared),
	    OTHERS_TEST(test_batch_names_what_is_mapped),
	    OTHERS_TEST(test_orphan_is_passed_over),
	    OTHERS_TEST(test_linked_path_goes_on_lagging),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
