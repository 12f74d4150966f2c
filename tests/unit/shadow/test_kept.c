/* Which tables and which address space a vCPU has, and the roots that it keeps for them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/entry/guest.h"
#include "src/shadow/shadow.h"
#include "tests/unit/shadow/by_hand.h"

#define KEPT VCPU_PREVIOUS_ROOTS
#define LIMIT 64u

static struct quire_vcpu *vcpu;

/* Shadow pages serve L1, so that each kind of tables is taken. */
static int setup(void **state)
{
	*state = &world;
	world_mmu = QUIRE_MMU_SHADOW;
	world_start_two(&world);
	world_mmu = QUIRE_MMU_TDP;
	vcpu = world.vcpu;
	return 0;
}

static int setup_tdp(void **state)
{
	*state = &world;
	world_start(&world);
	vcpu = world.vcpu;
	return 0;
}

static int teardown(void **state)
{
	assert_int_equal(quire_vcpu_set_nested(vcpu, NULL), 0);
	return world_teardown(state);
}

static struct quire_nested tables_at(uint64_t gfn)
{
	return (struct quire_nested){.root = {PAGE(gfn)}, .levels = 4, .nx = 1, .wp = 1};
}

static void set(const struct quire_nested *tables)
{
	assert_int_equal(quire_vcpu_set_nested(vcpu, tables), 0);
}

/* Guest mode is where the root is loaded. */
static struct shadow_page *load(void)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(vcpu);
	assert_non_null(vcpu->shadow.page);
	assert_ptr_equal(vcpu->shadow.entries, stage2.root);
	assert_int_equal(vcpu->shadow.lags, 0);
	return vcpu->shadow.page;
}

/* Has the root that was kept come back? It may lag by now, and is kept no more. */
static bool is_back(const struct shadow_page *page)
{
	if (!vcpu->shadow.page) {
		assert_null(vcpu->shadow.entries);
		assert_int_equal(vcpu->shadow.turn, 0);
		return false;
	}
	assert_ptr_equal(vcpu->shadow.page, page);
	assert_ptr_equal(vcpu->shadow.entries, table_entries(page->table));
	assert_int_equal(vcpu->shadow.level, role_level(page->role));
	assert_int_equal(vcpu->shadow.lags, 1);
	for (uint32_t i = 0; i < KEPT; i++)
		assert_ptr_not_equal(vcpu->previous[i].shadow.page, page);
	return true;
}

/* The root of @one comes back for the same tables, and for none that differ in one field. */
static void check_others(const struct quire_nested *one)
{
	struct quire_nested others[14] = {0};
	const struct shadow_page *page;

	for (uint32_t i = 0; i < 14; i++)
		others[i] = *one;
	others[0].root.v += PAGE(1);
	others[1].levels = one->levels == 4 ? 5 : 4;
	others[2].nx ^= 1;
	others[3].paging ^= 1;
	others[4].wp ^= 1;
	others[5].smap ^= 1;
	others[6].smep ^= 1;
	others[7].pse ^= 1;
	others[8].zero ^= 1;
	for (uint32_t i = 0; i < 4; i++)
		others[9 + i].directories[i] ^= PAGE(1);
	set(one);
	page = load();
	for (uint32_t i = 0; i < 13; i++) {
		set(&others[i]);
		assert_false(is_back(page));
		set(one);
		assert_true(is_back(page));
	}
	/* Bits that are no address are none of the root's. */
	others[13].root.v |= 0xfff | UINT64_C(0xfff) << 52;
	set(&others[13]);
	assert_int_equal(vcpu->nested.tables.root.v, one->root.v);
	assert_true(is_back(page));
	assert_ptr_equal(load(), page);
	set(NULL);
	assert_int_equal(vcpu->nested.on, 0);
}

static void test_same_tables(void **state)
{
	struct quire_nested one = tables_at(WORLD_ROOT);

	(void)state;
	check_others(&one);
	one.paging = 1;
	check_others(&one);
	one.levels = 3;
	one.directories[0] = PAGE(TABLE_2M) | NPT_P;
	check_others(&one);
}

/* L1's own root is kept as well, and is no nested guest's. */
static void test_own_root(void **state)
{
	struct quire_nested one = tables_at(WORLD_ROOT);
	const struct shadow_page *own, *nested;

	(void)state;
	own = load();
	set(&one);
	assert_int_equal(vcpu->nested.on, 1);
	assert_false(is_back(own));
	nested = load();
	assert_ptr_not_equal(nested, own);
	for (uint32_t turn = 0; turn < KEPT + 2; turn++) {
		set(NULL);
		assert_true(is_back(own));
		set(&one);
		assert_true(is_back(nested));
	}
}

/* So many are kept; the one that was kept first makes room. */
static void test_how_many(void **state)
{
	const struct shadow_page *pages[KEPT + 2];

	(void)state;
	for (uint32_t i = 0; i < KEPT + 2; i++) {
		const struct quire_nested tables = tables_at(WORLD_ROOT + i);

		set(&tables);
		assert_false(is_back(NULL));
		pages[i] = load();
	}
	/* The last one is loaded, the first one is forgotten. */
	for (uint32_t i = 0; i < KEPT + 1; i++) {
		bool kept = false;

		for (uint32_t at = 0; at < KEPT; at++)
			kept |= vcpu->previous[at].shadow.page == pages[i];
		assert_int_equal(kept, i > 0);
	}
	/* What is kept now takes the place of the oldest again, and the next one is still there. */
	for (uint32_t i = 2; i < KEPT + 1; i++) {
		const struct quire_nested tables = tables_at(WORLD_ROOT + i);

		set(&tables);
		assert_true(is_back(pages[i]));
	}
}

/* A root that is loaded is one of the pages that the client allows: another one goes for it. */
static void test_limit(void **state)
{
	(void)state;
	assert_int_equal(quire_vm_set_nr_mmu_pages(world.vm, LIMIT), 0);
	for (uint32_t i = 0; i < 2 * LIMIT; i++) {
		const struct quire_nested tables = tables_at(WORLD_ROOT + i);

		set(&tables);
		(void)load();
		assert_true(world_stat(&world, QUIRE_VM_STAT_mmu_shadow_pages) <= LIMIT);
	}
}

/* What is refused leaves L1's own tables, and a root that was loaded before is kept for later. */
static void check_refused(const struct quire_nested *tables, const struct quire_host_ops *ops)
{
	const struct quire_nested one = tables_at(WORLD_ROOT);
	const struct shadow_page *page;

	set(&one);
	page = load();
	world.ops = *ops;
	assert_int_equal(quire_vcpu_set_nested(vcpu, tables), -EOPNOTSUPP);
	world.ops = sim_host_ops;
	assert_int_equal(vcpu->nested.on, 0);
	assert_false(is_back(NULL));
	set(&one);
	assert_true(is_back(page));
}

static void test_refused(void **state)
{
	struct quire_nested tables = tables_at(WORLD_ROOT);
	struct quire_host_ops ops = sim_host_ops;

	(void)state;
	for (tables.levels = 0; tables.levels < 9; tables.levels++) {
		if (tables.levels < 2 || tables.levels > 5)
			check_refused(&tables, &ops);
		else
			set(&tables);
		assert_int_equal(vcpu->nested.on, 1);
	}
	tables.levels = 4;
	ops.load_u64 = NULL;
	check_refused(&tables, &ops);
	ops = sim_host_ops;
	ops.cmpxchg_u64 = NULL;
	check_refused(&tables, &ops);
}

/* The first nested tables make the shadow MMU. */
static void test_without_memory(void **state)
{
	const struct quire_nested tables = tables_at(WORLD_ROOT);
	struct quire_nested linear = tables;

	(void)state;
	world.host.fail_at = world.host.allocations + 1;
	assert_int_equal(quire_vcpu_set_nested(vcpu, &tables), -ENOMEM);
	world.host.fail_at = 0;
	assert_int_equal(vcpu->nested.on, 0);
	assert_null(shadow_of(world.vm));
	set(&tables);
	assert_non_null(shadow_of(world.vm));
	(void)load();
	set(NULL);
	/* The TDP MMU serves L1: its root is no shadow page, and it walks no linear addresses. */
	assert_null(vcpu->shadow.page);
	linear.paging = 1;
	assert_int_equal(quire_vcpu_set_nested(vcpu, &linear), -EOPNOTSUPP);
	assert_int_equal(vcpu->nested.on, 0);
}

/* Each space has a root of its own; an entry flushes, and nothing before. */
static void test_spaces(void **state)
{
	const struct shadow_page *pages[2];

	(void)state;
	pages[0] = load();
	vcpu->mode.doorbell = 0;
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 2), -EINVAL);
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 0), 0);
	assert_ptr_equal(vcpu->shadow.page, pages[0]);
	assert_int_equal(vcpu->shadow.lags, 0);
	assert_int_equal(vcpu->mode.doorbell, 0);
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 1), 0);
	assert_int_equal(vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
	assert_int_equal(vcpu->as_id, 1);
	assert_false(is_back(pages[0]));
	pages[1] = load();
	assert_int_equal(role_as(pages[1]->role), 1);
	for (uint32_t turn = 0; turn < 2 * KEPT; turn++) {
		assert_int_equal(quire_vcpu_set_address_space(vcpu, turn & 1), 0);
		assert_true(is_back(pages[turn & 1]));
	}
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 0), 0);
}

/* Where the TDP MMU serves the guest its root is looked up anew. */
static void test_spaces_of_tdp(void **state)
{
	struct quire_stage2 stage2;
	uint64_t requests;

	(void)state;
	assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
	quire_vcpu_leave(vcpu);
	assert_ptr_equal(vcpu->root, world.vm->roots.valid[0]);
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 1), 0);
	assert_null(vcpu->root);
	assert_int_equal(quire_vcpu_set_address_space(vcpu, 0), 0);
}

static void test_flush(void **state)
{
	const struct shadow_page *page = load();

	(void)state;
	vcpu->mode.doorbell = 0;
	quire_vcpu_flush_nested(vcpu);
	assert_int_equal(vcpu->shadow.lags, 1);
	assert_int_equal(vcpu->mode.doorbell, QUIRE_REQ_TLB_FLUSH);
	assert_ptr_equal(load(), page);
}

#define KEPT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TDP_TEST(name) cmocka_unit_test_setup_teardown(name, setup_tdp, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    KEPT_TEST(test_same_tables), KEPT_TEST(test_own_root),
	    KEPT_TEST(test_how_many),	 KEPT_TEST(test_limit),
	    KEPT_TEST(test_refused),	 TDP_TEST(test_without_memory),
	    KEPT_TEST(test_spaces),	 TDP_TEST(test_spaces_of_tdp),
	    KEPT_TEST(test_flush),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
