/* NX huge pages where shadow pages map: what is executed is small, and stays so until recovered. */
#include "tests/unit/shadow/groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/shadow/world.h"

#define UPPER 2u
#define MIDDLE 3u
/* L2's addresses of the block at WORLD_SLOT_PAGES. */
#define L2_BLOCK (UINT64_C(5) << 21)

static struct world world;

static int setup(void **state)
{
	*state = &world;
	world_mmu = QUIRE_MMU_SHADOW;
	world_start(&world);
	quire_vm_set_nx_huge_pages(world.vm, 1);
	world_set_entry(&world, WORLD_ROOT, 0, PAGE(UPPER) | NPT_ALL);
	world_set_entry(&world, UPPER, 0, PAGE(MIDDLE) | NPT_ALL);
	world_set_entry(&world, MIDDLE, 5,
			PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS | NPT_A | NPT_D);
	return 0;
}

static int teardown(void **state)
{
	(void)world_teardown(state);
	world_mmu = QUIRE_MMU_TDP;
	return 0;
}

static void access(uint64_t base, uint64_t page, enum world_access kind)
{
	struct world_result result = world_access(&world, base + PAGE(page), kind);

	assert_int_equal(result.outcome, 0);
	assert_ptr_equal(result.host, world_page(&world, WORLD_SLOT_PAGES + page));
}

static void expect(uint64_t huge, uint64_t splits)
{
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m), huge);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_nx_lpage_splits), splits);
}

/* @others: huge mappings beside the block. */
static void check_block(uint64_t base, uint64_t others)
{
	uint64_t faults;

	access(base, 3, WORLD_READ);
	expect(others + 1, 0);
	access(base, 5, WORLD_FETCH);
	expect(others, 1);
	/* Reading does not put the huge leaf back, so that both can go on. */
	access(base, 7, WORLD_READ);
	access(base, 8, WORLD_WRITE);
	expect(others, 1);
	faults = quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_taken);
	access(base, 5, WORLD_FETCH);
	access(base, 7, WORLD_READ);
	assert_int_equal(quire_vcpu_stat(world.vcpu, QUIRE_VCPU_STAT_pf_taken), faults);
	/* What was mapped by a read may be executed, too. */
	access(base, 7, WORLD_FETCH);
	expect(others, 1);
	assert_int_equal(quire_vm_recover_nx_pages(world.vm, 1), 1);
	expect(others, 0);
	access(base, 9, WORLD_READ);
	expect(others + 1, 0);
	access(base, 5, WORLD_FETCH);
	expect(others, 1);
}

static void test_guest(void **state)
{
	uint64_t others = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m);

	(void)state;
	check_block(PAGE(WORLD_SLOT_PAGES), others);
	/* The list does not outlive the pages. */
	quire_vm_set_nx_huge_pages(world.vm, 0);
	expect(0, 0);
}

static void test_nested_guest(void **state)
{
	(void)state;
	world_nested(&world, 1);
	/* L1's huge mapping goes as its tables are shadowed. */
	access(L2_BLOCK, 3, WORLD_READ);
	check_block(L2_BLOCK, quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m) - 1);
}

/* What L1 maps itself has no part in what L2 executes, and stays when L2's table goes. */
static void test_recovery_of_one_mmu(void **state)
{
	uint64_t huge;

	world_stop(&world);
	world_mmu = QUIRE_MMU_TDP;
	world_start(&world);
	(void)state;
	quire_vm_set_nx_huge_pages(world.vm, 1);
	world_put_entry(&world, WORLD_ROOT, 0, PAGE(UPPER) | NPT_ALL);
	world_put_entry(&world, UPPER, 0, PAGE(MIDDLE) | NPT_ALL);
	world_put_entry(&world, MIDDLE, 5,
			PAGE(WORLD_SLOT_PAGES) | NPT_ALL | NPT_PS | NPT_A | NPT_D);
	access(PAGE(WORLD_SLOT_PAGES), 3, WORLD_READ);
	huge = quire_vm_stat(world.vm, QUIRE_VM_STAT_pages_2m);
	assert_true(huge > 0);
	world_nested(&world, 1);
	access(L2_BLOCK, 5, WORLD_FETCH);
	expect(huge, 1);
	assert_int_equal(quire_vm_recover_nx_pages(world.vm, 1), 1);
	expect(huge, 0);
	/* And the other way round. */
	access(L2_BLOCK, 5, WORLD_READ);
	expect(huge + 1, 0);
	world_nested(&world, 0);
	access(PAGE(WORLD_SLOT_PAGES), 5, WORLD_FETCH);
	expect(huge, 1);
	assert_int_equal(quire_vm_recover_nx_pages(world.vm, 1), 1);
	expect(huge, 0);
}

/* A deleted slot's leaves go; the table they were in stays, and is recovered without a slot. */
static void test_slot_is_gone(void **state)
{
	(void)state;
	quire_vm_set_slot_zap_all(world.vm, 0);
	access(PAGE(WORLD_SLOT_PAGES), 5, WORLD_FETCH);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_nx_lpage_splits), 1);
	assert_int_equal(world_slot(&world, 1, UINT32_MAX), 0);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_nx_lpage_splits), 1);
	assert_int_equal(quire_vm_recover_nx_pages(world.vm, 1), 1);
	assert_int_equal(quire_vm_stat(world.vm, QUIRE_VM_STAT_nx_lpage_splits), 0);
}

int nx_tests(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_guest, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_nested_guest, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_slot_is_gone, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_recovery_of_one_mmu, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
