/* What the shadow MMU counts, how often it asks, and what a change of L1's leaves alone. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/change/nested.h"
#include "src/fault/fault.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/world.h"

/* A third slot, which shows the pages of slot 0 once more. */
#define ALIAS_SLOT 2u
#define ALIAS_GFN 2560u
#define OTHER_ROOT 5u
#define OTHER_1G 6u

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_start_two(&world);
	return 0;
}

static void use_root(uint64_t gfn)
{
	struct quire_nested tables = {.root = {PAGE(gfn)}, .levels = 4, .nx = 1};

	assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
	world.cpus[0].nested = 1;
}

/* Two gfns of one bucket collide, and the second table of one gfn does not. */
static void test_collisions(void **state)
{
	const struct quire_region region = {.slot = ALIAS_SLOT,
					    .gpa = {PAGE(ALIAS_GFN)},
					    .size_bytes = PAGE(WORLD_SLOT_PAGES),
					    .hva = sim_hva(0)};
	uint64_t near = 0, far = 0;

	(void)state;
	for (uint64_t a = 8; a < WORLD_DATA; a++)
		for (uint64_t b = 8; b < WORLD_DATA; b++)
			if (a != b &&
			    shadow_bucket((gfn_t){a}) == shadow_bucket((gfn_t){ALIAS_GFN + b})) {
				near = a;
				far = b;
			}
	assert_true(near);
	assert_int_equal(quire_vm_set_region(world.vm, &region), 0);
	world_put_entry(&world, TABLE_2M, 0, PAGE(near) | NPT_USED);
	world_put_entry(&world, TABLE_2M, 1, PAGE(near) | NPT_P | NPT_U | NPT_A);
	world_put_entry(&world, TABLE_2M, 2, PAGE(ALIAS_GFN + far) | NPT_USED);
	world_put_entry(&world, near, 0, PAGE(70) | NPT_USED);
	world_put_entry(&world, far, 0, PAGE(71) | NPT_USED);
	use_root(WORLD_ROOT);
	assert_int_equal(world_access(&world, BLOCK(0), WORLD_READ).outcome, 0);
	assert_int_equal(world_access(&world, BLOCK(1), WORLD_READ).outcome, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_max_mmu_page_hash_collisions), 0);
	assert_ptr_equal(world_access(&world, BLOCK(2), WORLD_READ).host, world_page(&world, 71));
	/* Each shadow page of the other gfn counts. */
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_max_mmu_page_hash_collisions), 2);
	world_nested(&world, 0);
}

/* The hypervisor stores one entry, and its neighbour stays mapped. */
static void test_one_entry_goes(void **state)
{
	uint64_t none = 0, before;

	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + i) | NPT_ALL);
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	}
	before = world_stat(&world, QUIRE_VM_STAT_pages_4k);
	assert_int_equal(quire_vcpu_write(world.vcpu, (gpa_t){PAGE(TABLE_4K) + 3 * sizeof(none)},
					  &none, sizeof(none)),
			 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k), before - 1);
	world_nested(&world, 0);
}

static uint32_t asked;

static bool allow_none(void *ctx, gfn_t gfn, uint32_t level)
{
	(void)ctx;
	assert_int_equal(gfn.v, WORLD_SLOT_PAGES);
	assert_int_equal(level, QUIRE_LEVEL_2M);
	asked++;
	return false;
}

/* Parts of one block ask once whether it may be huge again. */
static void test_recovery_asks_once(void **state)
{
	struct shadow_recovery recovery = {
	    .range = shadow_range_of(0, (gfn_t){WORLD_SLOT_PAGES}, (gfn_t){WORLD_PAGES}),
	    .allowed = allow_none,
	};
	uint64_t before;

	(void)state;
	recovery.range.highest = QUIRE_LEVEL_2M;
	world_set_entry(&world, TABLE_2M, 1, PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS);
	assert_int_equal(world_slot(&world, 1, QUIRE_SLOT_LOG_DIRTY), 0);
	/* So few are one hold of the lock. */
	for (uint32_t i = 0; i < 3; i++)
		(void)world_check(&world, BLOCK(1) + PAGE(i), WORLD_WRITE);
	before = world_stat(&world, QUIRE_VM_STAT_pages_4k);
	asked = 0;
	mutex_lock(&world.vm->slots_lock);
	change_nested_recover(world.vm, &recovery);
	mutex_unlock(&world.vm->slots_lock);
	assert_int_equal(asked, 1);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_4k), before);
	world_nested(&world, 0);
}

/* A split that finds no memory ends: the block stays huge, and is split at the next try. */
static void test_split_without_memory(void **state)
{
	const gfn_t start = {WORLD_SLOT_PAGES}, stop = {WORLD_PAGES};
	struct arena *arena = &world.vm->arena;
	struct table_cache hog = {0};

	(void)state;
	world_set_entry(&world, TABLE_2M, 1, PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS);
	(void)world_check(&world, BLOCK(1), WORLD_WRITE);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	mutex_lock(&world.vm->slots_lock);
	assert_int_equal(table_cache_fill(&hog, arena, (u32)arena->free_count), 0);
	world.host.fail_at = world.host.allocations + 1;
	change_nested_split(world.vm, 0, start, stop);
	world.host.fail_at = 0;
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 1);
	change_nested_split(world.vm, 0, start, stop);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_pages_2m), 0);
	mutex_unlock(&world.vm->slots_lock);
	table_cache_drain(&hog, arena);
	world_nested(&world, 0);
}

static uint32_t level_at(uint64_t gfn)
{
	uint32_t level;

	biglock_read_lock(&world.vm->mmu_lock, NULL);
	level = shadow_level_at(world.vm, world.vcpu->shadow.page, (gfn_t){gfn});
	biglock_read_unlock(&world.vm->mmu_lock, NULL);
	return level;
}

static void test_level_of_a_leaf(void **state)
{
	(void)state;
	world_set_entry(&world, TABLE_2M, 1, PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS);
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	(void)world_check(&world, BLOCK(1) + PAGE(3), WORLD_WRITE);
	(void)world_check(&world, PAGE(5), WORLD_WRITE);
	assert_int_equal(level_at(512 + 77), QUIRE_LEVEL_2M);
	assert_int_equal(level_at(5), QUIRE_LEVEL_4K);
	assert_int_equal(level_at(1024), QUIRE_LEVEL_4K);
	world_nested(&world, 0);
}

/* A table lags that another root leads to: loading a root that does not leaves it so. */
static void test_lags_below_another_root(void **state)
{
	(void)state;
	world_set_entry(&world, OTHER_ROOT, 0, PAGE(OTHER_1G) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_USED);
	world_nested_on(&world, 1, 1);
	assert_int_equal(world_access_on(&world, 1, PAGE(5), WORLD_WRITE).outcome, 0);
	world_set_entry(&world, TABLE_4K, 6, PAGE(71) | NPT_USED);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	use_root(OTHER_ROOT);
	assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, QUIRE_NESTED_FAULT);
	quire_vcpu_flush_nested(world.vcpu);
	assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, QUIRE_NESTED_FAULT);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 1);
	use_root(WORLD_ROOT);
	assert_int_equal(world_access(&world, PAGE(6), WORLD_WRITE).outcome, 0);
	assert_int_equal(world_stat(&world, QUIRE_VM_STAT_mmu_unsync), 0);
	world_nested(&world, 0);
}

static uint32_t dirty_puts;

static void note_put(void *ctx, const struct quire_page *page, enum quire_page_use use)
{
	dirty_puts += use == QUIRE_PAGE_DIRTY;
	sim_host_ops.page_put(ctx, page, use);
}

/* A fault maps its neighbours, too, which the guest may write from then on: all are dirty. */
static void test_neighbours_are_dirty(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + 2 * i) | NPT_USED);
	world_nested(&world, 1);
	world.ops.page_put = note_put;
	dirty_puts = 0;
	(void)world_check(&world, PAGE(0), WORLD_WRITE);
	assert_int_equal(dirty_puts, 8);
	for (uint32_t i = 0; i < 8; i++)
		(void)world_check(&world, PAGE(i), WORLD_WRITE);
	assert_int_equal(dirty_puts, 8);
	world_nested(&world, 0);
	world.ops = sim_host_ops;
}

static uint32_t asked_pages;

static uint64_t note_asked(void *ctx, hva_t hva, uint32_t count, struct quire_page *pages)
{
	assert_in_range(hva.v, sim_hva(70).v, sim_hva(90).v - count * QUIRE_PAGE_SIZE);
	asked_pages += count;
	return sim_host_ops.pages_there(ctx, hva, count, pages);
}

/* The fault asks the host for what L1's table maps before its first empty entry, as KVM does. */
static void test_asks_for_neighbours_alone(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 8; i += 2)
		world_set_entry(&world, TABLE_4K, i, PAGE(70 + 2 * i) | NPT_USED);
	world_nested(&world, 1);
	world.ops.pages_there = note_asked;
	asked_pages = 0;
	(void)world_check(&world, PAGE(2), WORLD_WRITE);
	assert_int_equal(asked_pages, 1);
	world_nested(&world, 0);
	world.ops = sim_host_ops;
}

/* All objects change hands, and none is in both caches. */
static void test_objects_change_hands(void **state)
{
	static uint64_t memory[2][OBJECT_BYTES / sizeof(uint64_t)]
	    __attribute__((aligned(OBJECT_BYTES)));
	struct object_cache from = {0}, to = {0};

	(void)state;
	object_put(&from, memory[0]);
	object_put(&to, memory[1]);
	object_cache_move(&to, &from);
	assert_null(from.objects);
	assert_int_equal(from.count, 0);
	assert_int_equal(to.count, 2);
	assert_null(object_take(&from));
	assert_ptr_equal(object_take(&to), memory[0]);
	assert_ptr_equal(object_take(&to), memory[1]);
}

/* More objects go in these rounds than one page of them holds, so that a leak shows. */
#define ROUNDS 60u

/* Shadow pages that went are those that come: the VM needs no more memory for it. */
static void test_memory_is_used_again(void **state)
{
	uint64_t used, peak = 0;

	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(70) | NPT_USED);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < 8; i++)
			(void)world_check(&world, PAGE(i), WORLD_WRITE);
		world_set_entry(&world, WORLD_ROOT, 0, 0);
		world_set_entry(&world, WORLD_ROOT, 0, PAGE(TABLE_1G) | NPT_ALL);
		used = arena_used(&world.vm->arena);
		/* What one round leaves at hand, others use: the first ones show the most. */
		peak = round < 8 && used > peak ? used : peak;
		assert_in_range(used, 0, peak);
	}
	world_nested(&world, 0);
}

/* L2's first access, from setting L1's tables on; the error of the step that fails. */
static int first_access(uint64_t gpa)
{
	const struct quire_nested tables = {.root = {PAGE(WORLD_ROOT)}, .levels = 4, .nx = 1};
	int ret = quire_vcpu_set_nested(world.vcpu, &tables);

	for (uint32_t tries = 0; !ret && tries < 8; tries++) {
		struct quire_memory_fault fault;
		struct quire_stage2 stage2;
		uint64_t requests;

		ret = quire_vcpu_enter(world.vcpu, &requests, &stage2);
		if (ret)
			break;
		quire_vcpu_leave(world.vcpu);
		ret = quire_vcpu_fault(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_USER, &fault);
		if (ret == QUIRE_FIXED)
			return 0;
		ret = ret == QUIRE_RETRY ? 0 : ret;
	}
	return ret;
}

/* The same with @tables tables left, then none; and with the allocation @fails failing. */
static int first_access_without(uint32_t tables, uint64_t fails)
{
	struct arena *arena = &world.vm->arena;
	struct table_cache hog = {0};
	uint64_t free;
	int ret;

	/* L1's own tables, so that there is a chunk. */
	assert_int_equal(world_access(&world, PAGE(WORLD_ROOT), WORLD_READ).outcome, 0);
	free = arena->free_count;
	if (free > tables)
		assert_int_equal(table_cache_fill(&hog, arena, (uint32_t)free - tables), 0);
	world.host.fail_at = world.host.allocations + fails;
	ret = first_access(PAGE(5));
	table_cache_drain(&hog, arena);
	return ret;
}

/* Each step of an access may find no memory: it says so, and the next try works. */
static void test_first_access_without_memory(void **state)
{
	uint32_t failed = 0;

	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	for (uint32_t round = 0; round < 24; round++) {
		/* First the VM's own memory, of which tables are no part; then the tables. */
		bool small = round < 8;
		int ret;

		world_stop_vm(&world);
		world_start_vm(&world);
		ret = first_access_without(small ? UINT32_MAX : round - 8, small ? round + 1 : 3);
		if (ret) {
			assert_int_equal(ret, -ENOMEM);
			failed++;
		}
		world.host.fail_at = 0;
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
		world.cpus[0].nested = 0;
		assert_ptr_equal(world_check(&world, PAGE(5), WORLD_WRITE).host,
				 world_page(&world, 70));
		world_nested(&world, 0);
	}
	assert_true(failed > 4);
}

/* Going over to L2 makes the shadow MMU: the call that finds no memory for it says so itself. */
static void test_nested_without_memory(void **state)
{
	const struct quire_nested tables = {.root = {PAGE(WORLD_ROOT)}, .levels = 4, .nx = 1};

	(void)state;
	for (uint64_t fails = 1; fails <= 2; fails++) {
		world_stop_vm(&world);
		world_start_vm(&world);
		world.host.fail_at = world.host.allocations + fails;
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), -ENOMEM);
		world.host.fail_at = 0;
		/* L1 goes on, and the next try works. */
		assert_int_equal(world_access(&world, PAGE(5), WORLD_READ).outcome, 0);
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
		assert_int_equal(quire_vcpu_set_nested(world.vcpu, NULL), 0);
	}
}

/* The processor gets the address of the shadow root, not of the TDP root that L1 has. */
static void test_address_of_the_root(void **state)
{
	struct quire_stage2 stage2[2];
	uint64_t requests;

	(void)state;
	memset(stage2, 0, sizeof(stage2));
	for (int nested = 0; nested < 2; nested++) {
		world_nested(&world, nested);
		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2[nested]), 0);
		quire_vcpu_leave(world.vcpu);
		assert_int_equal(stage2[nested].root_physical, (uintptr_t)stage2[nested].root);
	}
	assert_ptr_not_equal(stage2[0].root, stage2[1].root);
	world_nested(&world, 0);
}

/* What serves L2 with EFER.NXE is not what serves it without, and the role says which it is. */
static void test_role_says_nx(void **state)
{
	(void)state;
	for (uint32_t nx = 0; nx < 2; nx++) {
		const struct quire_nested tables = {
		    .root = {PAGE(WORLD_ROOT)}, .levels = 4, .nx = nx};
		struct quire_stage2 stage2;
		uint64_t requests;

		assert_int_equal(quire_vcpu_set_nested(world.vcpu, &tables), 0);
		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(world.vcpu);
		assert_int_equal(world.vcpu->shadow.page->role & ROLE_NX, nx ? ROLE_NX : 0);
	}
	world_nested(&world, 0);
}

/* A gfn's shadow pages go, and walks from before are stale; the second time none is left. */
static void test_zap_of_a_gfn(void **state)
{
	const struct shadow *shadow;
	struct flush_debt debt;

	(void)state;
	world_set_entry(&world, TABLE_4K, 5, PAGE(70) | NPT_ALL);
	(void)world_check(&world, PAGE(5), WORLD_READ);
	shadow = world.vm->shadow;
	for (int there = 1; there >= 0; there--) {
		uint64_t turn = shadow->write_turn;

		flush_debt_init(&debt, &world.vm->flush);
		biglock_write_lock(&world.vm->mmu_lock);
		assert_int_equal(shadow_zap_gfn(world.vm, 0, (gfn_t){TABLE_4K}, &debt), there);
		assert_int_equal(shadow->write_turn != turn, there);
		shadow_commit(world.vm, &debt);
		biglock_write_unlock(&world.vm->mmu_lock);
	}
	world_nested(&world, 0);
}

/* Without a quota a VM may have one shadow page for 50 pages of its slots, and 64 at least. */
static void test_share_of_memory(void **state)
{
	const uint64_t total_pages = world.vm->slots.total_pages;
	uint64_t used, available;

	(void)state;
	world_nested(&world, 1);
	(void)world_access(&world, PAGE(5), WORLD_READ);
	used = world.vm->shadow->pages;
	for (uint64_t limit = 63; limit <= 65; limit++) {
		world.vm->slots.total_pages = limit * 50 + 49;
		biglock_write_lock(&world.vm->mmu_lock);
		available = shadow_available(world.vm);
		biglock_write_unlock(&world.vm->mmu_lock);
		assert_int_equal(available + used, limit < 64 ? 64 : limit);
	}
	world.vm->slots.total_pages = total_pages;
	world_nested(&world, 0);
}

#define OTHER_2M 7u
#define OTHER_4K 8u
#define GIB (UINT64_C(1) << 30)

/* One fault of L2's at @gpa, and the address that it names. */
static int fault_once(uint64_t gpa, uint64_t error, uint64_t *told)
{
	struct quire_memory_fault fault = {0};
	struct quire_stage2 stage2;
	uint64_t requests;
	int ret = QUIRE_RETRY;

	for (uint32_t tries = 0; tries < 8 && ret == QUIRE_RETRY; tries++) {
		assert_int_equal(quire_vcpu_enter(world.vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(world.vcpu);
		ret = quire_vcpu_fault(world.vcpu, (gpa_t){gpa}, QUIRE_PFERR_USER | error, &fault);
	}
	*told = fault.gpa.v;
	return ret;
}

/* L2's write at @gpa once the tables that map 1 GiB on are in use, and so protected. */
static int write_protected(uint64_t gpa)
{
	uint64_t told;

	assert_in_range(fault_once(GIB, 0, &told), QUIRE_FIXED, QUIRE_SPURIOUS);
	return fault_once(gpa, QUIRE_PFERR_WRITE, &told);
}

/*
 * L2 writes tables of L1's. What shadows the table goes; where the same write comes again, the
 * hypervisor writes. Another write between them, to a table that may lag, makes it the first again.
 */
static void test_writes_by_hand(void **state)
{
	const uint64_t to_2m = PAGE(5) + 24, to_4k = PAGE(6) + 24;

	(void)state;
	world_set_entry(&world, TABLE_1G, 1, PAGE(OTHER_2M) | NPT_USED);
	world_put_entry(&world, OTHER_2M, 0, PAGE(OTHER_4K) | NPT_USED);
	world_put_entry(&world, OTHER_4K, 0, PAGE(70) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 5, PAGE(OTHER_2M) | NPT_USED);
	world_set_entry(&world, TABLE_4K, 6, PAGE(OTHER_4K) | NPT_USED);
	world_nested(&world, 1);
	assert_int_equal(write_protected(to_2m), QUIRE_FIXED);
	assert_int_equal(write_protected(to_2m), QUIRE_WRITE_PROTECTED);
	assert_int_equal(write_protected(to_2m), QUIRE_FIXED);
	assert_int_equal(write_protected(to_4k), QUIRE_FIXED);
	assert_int_equal(write_protected(to_2m), QUIRE_FIXED);
	assert_int_equal(write_protected(to_2m), QUIRE_WRITE_PROTECTED);
	/* Not of a table: there is nothing to zap. */
	assert_int_equal(fault_unprotect(world.vcpu, (gfn_t){100}), UNPROTECTED_KEPT);
	world_nested(&world, 0);
}

/* A table that maps itself: were it unprotected for the write, nothing would map it any more. */
static void test_write_to_its_own_path(void **state)
{
	const uint32_t path[] = {TABLE_4K, TABLE_2M, TABLE_1G, WORLD_ROOT};

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		world_set_entry(&world, TABLE_4K, i, PAGE(path[i]) | NPT_USED);
	world_nested(&world, 1);
	for (uint32_t i = 0; i < 4; i++) {
		uint64_t told;

		assert_int_equal(fault_once(PAGE(i) + 24, QUIRE_PFERR_WRITE, &told),
				 QUIRE_WRITE_PROTECTED);
		assert_int_equal(told, PAGE(path[i]) + 24);
	}
	world_nested(&world, 0);
}

#define COUNT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, world_teardown)

int count_tests(void)
{
	const struct CMUnitTest tests[] = {
	    COUNT_TEST(test_collisions),
	    COUNT_TEST(test_one_entry_goes),
	    COUNT_TEST(test_recovery_asks_once),
	    COUNT_TEST(test_split_without_memory),
	    COUNT_TEST(test_level_of_a_leaf),
	    COUNT_TEST(test_lags_below_another_root),
	    COUNT_TEST(test_objects_change_hands),
	    COUNT_TEST(test_neighbours_are_dirty),
	    COUNT_TEST(test_asks_for_neighbours_alone),
	    COUNT_TEST(test_memory_is_used_again),
	    COUNT_TEST(test_first_access_without_memory),
	    COUNT_TEST(test_nested_without_memory),
	    COUNT_TEST(test_address_of_the_root),
	    COUNT_TEST(test_role_says_nx),
	    COUNT_TEST(test_zap_of_a_gfn),
	    COUNT_TEST(test_share_of_memory),
	    COUNT_TEST(test_writes_by_hand),
	    COUNT_TEST(test_write_to_its_own_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
