/* The rounds of a nested guest's fault: what makes it start over, how often, and what it waits for.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/shadow/by_hand.h"

#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
/* What a fault tries by itself before it gives the processor back. */
#define ROUNDS 8u
#define OTHER_2M 5u
#define OTHER_4K 6u
/* L2's page whose faults are watched, no neighbour of what is mapped before; and L1's page there.
 */
#define FAR 12u
#define FAR_GFN (70u + FAR)
/* Another way to the same table. */
#define OTHER_WAY (UINT64_C(1) << 30)

/* The first processor is L1's, the second runs L2. */
#define L1 0u
#define L2 1u

static uint32_t lookups;	 /* of L2's page: one in each round that comes so far */
static uint32_t loads;		 /* of the watched entry of L1's: one in each round */
static uint32_t when;		 /* the lookup in which @meanwhile comes */
static int refusal;		 /* what the host says instead of looking; 0: it looks */
static void (*meanwhile)(void);	 /* L1's tables have been walked, no lock is held */
static void (*after_load)(void); /* the walk has just read the watched entry for the first time */
static void (*after_put)(void);	 /* the lock is held still, and the page was given back */

static int get_page(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int ret = refusal ? refusal : sim_host_ops.page_get(ctx, hva, flags, page);

	if (hva.v == sim_hva(FAR_GFN).v && ++lookups == when)
		meanwhile();
	return ret;
}

static void put_page(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	sim_host_ops.page_put(ctx, page, use);
	if (after_put)
		after_put();
}

static int load(void *ctx, hva_t src, uint64_t *value)
{
	int err = sim_host_ops.load_u64(ctx, src, value);

	if (src.v == sim_hva(TABLE_4K).v + FAR * sizeof(uint64_t) && !loads++ && after_load)
		after_load();
	return err;
}

static struct quire_vcpu *l2(void)
{
	return world.cpus[L2].vcpu;
}

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	for (uint32_t i = 0; i < 16; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_USED);
	world_set_entry(&world, OTHER_4K, 0, PAGE(90) | NPT_USED);
	world_set_entry(&world, TABLE_1G, 1, PAGE(OTHER_2M) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 0, PAGE(TABLE_4K) | NPT_ALL);
	world_set_entry(&world, OTHER_2M, 1, PAGE(OTHER_4K) | NPT_ALL);
	world_nested_on(&world, L2, 1);
	/* All tables are shadowed: no round is about that. */
	assert_int_equal(world_access_on(&world, L2, PAGE(0), WORLD_WRITE).outcome, 0);
	assert_int_equal(world_access_on(&world, L2, OTHER_WAY + BLOCK(1), WORLD_WRITE).outcome, 0);
	shadow = world.vm->shadow;
	hidden_tables = (struct table_cache){0};
	world.ops.page_get = get_page;
	world.ops.page_put = put_page;
	world.ops.load_u64 = load;
	lookups = loads = when = 0;
	refusal = 0;
	meanwhile = after_load = after_put = NULL;
	return 0;
}

static struct quire_memory_fault told;

static int fault_once(uint64_t gpa)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(l2(), &requests, &stage2), 0);
	quire_vcpu_leave(l2());
	lookups = loads = 0;
	told = (struct quire_memory_fault){0};
	return quire_vcpu_fault(l2(), (gpa_t){gpa}, QUIRE_PFERR_USER | WRITE, &told);
}

/* A page of the host's that an invalidation is about: from here on, or once. */
static uint32_t touched;

static void begin_touched(void)
{
	quire_vm_host_invalidate_begin(world.vm, sim_hva(touched), sim_hva(touched + 1));
}

static void end_touched(void)
{
	quire_vm_host_invalidate_end(world.vm, sim_hva(touched), sim_hva(touched + 1));
}

static void invalidate_other(void)
{
	touched = 200;
	begin_touched();
	end_touched();
}

/* One more slot, where nothing looks. */
static void add_slot(void)
{
	const struct quire_region region = {
	    .slot = 2, .gpa = {PAGE(5000)}, .size_bytes = PAGE(1), .hva = sim_hva(200)};

	assert_int_equal(quire_vm_set_region(world.vm, &region), 0);
}

/* Nothing happens: one round, and nothing to tell. */
static void test_one_round(void **state)
{
	(void)state;
	assert_int_equal(fault_once(PAGE(FAR) + 0x18), QUIRE_FIXED);
	assert_int_equal(lookups, 1);
	assert_int_equal(loads, 1);
	assert_int_equal(told.gpa.v, 0);
	assert_int_equal(told.size_bytes, 0);
}

static int refuse_cmpxchg(void *ctx, hva_t dst, uint64_t *expected, uint64_t desired)
{
	(void)ctx;
	(void)dst;
	(void)expected;
	(void)desired;
	return refusal;
}

/* Any error of the host's ends the fault, and L1's address is told; and so it ends a walk. */
static void test_errors_of_the_host(void **state)
{
	static const int errors[] = {-EPERM, -ENOENT, -ENOMEM};
	gpa_t found;

	(void)state;
	world_set_entry(&world, TABLE_4K, FAR + 1, PAGE(FAR_GFN + 1) | NPT_ALL);
	for (uint32_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		refusal = errors[i];
		assert_int_equal(fault_once(PAGE(FAR) + 0x18), errors[i]);
		assert_int_equal(lookups, 1);
		assert_int_equal(told.gpa.v, PAGE(FAR_GFN) + 0x18);
		assert_int_equal(told.size_bytes, 0);
		/* L1 has not used that entry: A is to be set. */
		world.ops.cmpxchg_u64 = refuse_cmpxchg;
		assert_int_equal(
		    quire_vcpu_walk_nested(l2(), (gpa_t){PAGE(FAR + 1)}, QUIRE_PFERR_USER, &found),
		    errors[i]);
		world.ops.cmpxchg_u64 = sim_host_ops.cmpxchg_u64;
	}
}

/* The host takes the page back while it is mapped: the guest goes on, and comes again. */
static void test_page_is_taken_back(void **state)
{
	(void)state;
	touched = FAR_GFN;
	when = 1;
	meanwhile = begin_touched;
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_RETRY);
	/* The second round asks for no page that is being taken back. */
	assert_int_equal(lookups, 1);
	assert_int_equal(loads, 2);
	end_touched();
	when = 0;
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_FIXED);
}

/* The host takes the page of one of L1's tables back: nothing is mapped that it says, for as long.
 */
static void test_table_is_taken_back(void **state)
{
	static const uint32_t tables[] = {WORLD_ROOT, TABLE_1G, TABLE_2M, TABLE_4K};

	(void)state;
	for (uint32_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		touched = tables[i];
		when = 1;
		meanwhile = begin_touched;
		assert_int_equal(fault_once(PAGE(FAR)), QUIRE_RETRY);
		assert_int_equal(lookups, ROUNDS);
		end_touched();
		when = 0;
		assert_int_equal(world_access_on(&world, L2, PAGE(0), WORLD_WRITE).outcome, 0);
	}
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_FIXED);
}

/* The slots change when the page has been looked up: L1's tables are walked again. */
static void test_slots_change(void **state)
{
	(void)state;
	when = 1;
	meanwhile = add_slot;
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_FIXED);
	assert_int_equal(lookups, 2);
	assert_int_equal(loads, 2);
}

/* They change during the walk: it is not followed by a lookup, but by another walk. */
static void test_slots_change_in_the_walk(void **state)
{
	(void)state;
	after_load = add_slot;
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_FIXED);
	assert_int_equal(lookups, 1);
	assert_int_equal(loads, 2);
}

/* The host takes any page back during the walk: what was read is old, and no page is looked up. */
static void test_host_in_the_walk(void **state)
{
	(void)state;
	after_load = invalidate_other;
	assert_int_equal(fault_once(PAGE(FAR)), QUIRE_RETRY);
	assert_int_equal(lookups, 0);
	assert_int_equal(loads, 1);
}

static void write_table(void)
{
	world_set_entry(&world, TABLE_4K, 1, PAGE(101) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
}

static void write_table_and_invalidate(void)
{
	write_table();
	invalidate_other();
}

/* A table that lags is not linked before it is up to date: that takes a round. */
static void test_lags_once(void **state)
{
	uint64_t zapped = world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped);

	(void)state;
	write_table();
	assert_int_equal(fault_once(OTHER_WAY + PAGE(FAR)), QUIRE_FIXED);
	assert_int_equal(lookups, 2);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped), zapped);
}

/* L1 has written it again by then: the page goes, and another one is made, up to date. */
static void test_lags_again(void **state)
{
	uint64_t zapped = world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped);

	(void)state;
	write_table();
	when = 2;
	meanwhile = write_table;
	assert_int_equal(fault_once(OTHER_WAY + PAGE(FAR)), QUIRE_FIXED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped), zapped + 1);
	/* The page that lags, the one that lags again, the new one, the leaf. */
	assert_int_equal(lookups, 4);
}

/* The same, and the round in which it is written finds nothing out: it waits for no page. */
static void test_lags_again_unseen(void **state)
{
	uint64_t zapped = world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped);

	(void)state;
	write_table();
	when = 2;
	meanwhile = write_table_and_invalidate;
	assert_int_equal(fault_once(OTHER_WAY + PAGE(FAR)), QUIRE_FIXED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_zapped), zapped + 1);
	assert_int_equal(lookups, 5);
}

static void use_tables_up(void)
{
	after_put = NULL;
	keep_tables(&l2()->tables, 0);
	world.host.fail_at = world.host.allocations + 1;
}

/* There is no memory for what L1's table says while the page catches up with it. */
static void test_lags_without_memory(void **state)
{
	struct arena *arena = &world.vm->arena;
	struct table_cache free_ones = {0};

	(void)state;
	write_table();
	assert_int_equal(shadow_reserve(l2()), 0);
	while (arena->free_count)
		assert_int_equal(table_cache_fill(&free_ones, arena, free_ones.count + 1), 0);
	after_put = use_tables_up;
	assert_int_equal(fault_once(OTHER_WAY + PAGE(FAR)), -ENOMEM);
	assert_int_equal(lookups, 1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	world.host.fail_at = 0;
	table_cache_drain(&hidden_tables, arena);
	table_cache_drain(&free_ones, arena);
	assert_int_equal(fault_once(OTHER_WAY + PAGE(FAR)), QUIRE_FIXED);
}

/* L2 follows both tables of the other way, so that no vCPU may write them. */
static void use_other_way(void)
{
	assert_int_equal(world_access_on(&world, L2, OTHER_WAY + BLOCK(1), WORLD_READ).outcome, 0);
}

/*
 * L2 writes tables that map other addresses of its own. A directory is unprotected for the first
 * write; where the next one at that address, be it the first of all, finds it protected again the
 * library writes by hand. A table of the lowest level may lag: it is never written by hand.
 */
static void test_directory_is_written_by_hand(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_4K, 0, PAGE(OTHER_2M) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 1, PAGE(OTHER_4K) | NPT_USED);
	for (uint32_t turn = 0; turn < 2; turn++) {
		for (uint32_t i = 0; i < 3; i++) {
			use_other_way();
			assert_int_equal(fault_once(PAGE(1) + 8), QUIRE_FIXED);
			quire_vcpu_flush_nested(l2());
		}
		use_other_way();
		assert_int_equal(fault_once(0), QUIRE_FIXED);
		use_other_way();
		assert_int_equal(fault_once(0), QUIRE_WRITE_PROTECTED);
		/* Not twice in a row. */
		assert_int_equal(fault_once(0), QUIRE_FIXED);
		use_other_way();
		/* At another address it is the first time. */
		assert_int_equal(fault_once(8), QUIRE_FIXED);
		use_other_way();
		assert_int_equal(fault_once(8), QUIRE_WRITE_PROTECTED);
	}
}

#define ROUND_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ROUND_TEST(test_one_round),		  ROUND_TEST(test_errors_of_the_host),
	    ROUND_TEST(test_page_is_taken_back),  ROUND_TEST(test_table_is_taken_back),
	    ROUND_TEST(test_slots_change),	  ROUND_TEST(test_slots_change_in_the_walk),
	    ROUND_TEST(test_host_in_the_walk),	  ROUND_TEST(test_lags_once),
	    ROUND_TEST(test_lags_again),	  ROUND_TEST(test_lags_again_unseen),
	    ROUND_TEST(test_lags_without_memory), ROUND_TEST(test_directory_is_written_by_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
