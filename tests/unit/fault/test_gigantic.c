/* Leaves of 1 GiB: when they come, and what takes a part of them away. */
#include "tests/unit/support.h"

#define FETCH ((uint64_t)QUIRE_PFERR_FETCH)
#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)

static void begin_type(enum quire_vm_type type)
{
	vm_begin_type(type);
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
}

static void begin(void)
{
	begin_type(QUIRE_VM_DEFAULT);
	add_slot(0, SIM_GIGANTIC, 0);
}

static int executable_at(uint64_t gfn)
{
	uint32_t level;
	uint64_t leaf = leaf_at(gfn, &level);

	assert_true(leaf != 0);
	return entry_is_executable(&machine.vm->tdp_format, leaf);
}

/* Does the leaf at @gfn lead to the page's own frame? */
static void is_right(uint64_t gfn)
{
	uint32_t level;
	uint64_t pfn = entry_pfn(&machine.vm->tdp_format, leaf_at(gfn, &level)).v;

	assert_int_equal(pfn % level_pages((enum quire_level)level), 0);
	pfn += gfn % level_pages((enum quire_level)level);
	assert_int_equal(pfn << QUIRE_PAGE_SHIFT, (uintptr_t)frame_of((uint32_t)gfn)->bytes);
}

/* One leaf for all of it, and every page is its own. */
static void test_mapped(void **state)
{
	uint64_t faults;

	(void)state;
	begin();
	store_backed(MIDDLE, 1);
	leaves_are(1, 0, 0);
	assert_int_equal(level_at(0), QUIRE_LEVEL_1G);
	faults = quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken);
	store_backed(0, 2);
	store_backed(SIM_GIGANTIC - 1, 3);
	assert_int_equal(load(MIDDLE), 1);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken), faults);
	leaves_are(1, 0, 0);
	vm_end();
}

/* A slot that cuts the block, or sees it shifted, gets what still fits. */
static void test_slots_that_do_not_fit(void **state)
{
	struct quire_region region = {.hva = sim_hva(0)};

	(void)state;
	begin_type(QUIRE_VM_DEFAULT);
	add_slot(0, SIM_GIGANTIC - 1, 0);
	store_backed(MIDDLE, 1);
	store_backed(SIM_GIGANTIC - 2, 2);
	leaves_are(0, 1, 1);
	vm_end();

	begin_type(QUIRE_VM_DEFAULT);
	region.gpa.v = PAGES(SIM_BLOCK);
	region.size_bytes = PAGES(SIM_GIGANTIC);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(fault_at(MIDDLE, WRITE), QUIRE_FIXED);
	leaves_are(0, 1, 0);
	vm_end();
}

/* The host takes one page: the leaf goes whole, what is left of the block is as large as it can. */
static void test_part_replaced(void **state)
{
	hva_t start = sim_hva(MIDDLE), end = sim_hva(MIDDLE + 1);

	(void)state;
	begin();
	store_backed(MIDDLE, 1);
	store_backed(5, 2);
	quire_vm_host_invalidate_begin(machine.vm, start, end);
	leaves_are(0, 0, 0);
	sim_unmap(&machine.host, MIDDLE);
	sim_map(&machine.host, MIDDLE, SIM_WRITABLE);
	/* The invalidation still runs: what does not touch it may be mapped, as large as that
	 * allows.
	 */
	assert_int_equal(load(5), 2);
	leaves_are(0, 1, 0);
	quire_vm_host_invalidate_end(machine.vm, start, end);
	assert_int_equal(load(MIDDLE), 0);
	leaves_are(0, 1, 1);
	store_backed(MIDDLE + 1, 3);
	leaves_are(0, 1, 2);
	vm_end();
}

/* Reading keeps it whole, executing cuts it down to 4K, and the recovery lets it come back. */
static void test_nx(void **state)
{
	(void)state;
	begin();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_int_equal(fault_at(MIDDLE, 0), QUIRE_FIXED);
	leaves_are(1, 0, 0);
	assert_false(executable_at(MIDDLE));
	assert_int_equal(fault_at(MIDDLE, FETCH | PRESENT), QUIRE_SPURIOUS);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	assert_true(executable_at(MIDDLE));
	assert_false(executable_at(0));
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 2);
	/* Two tables are in the way of it. */
	assert_int_equal(fault_at(MIDDLE + 1, WRITE), QUIRE_SPURIOUS);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	is_right(MIDDLE);
	is_right(MIDDLE + 1);
	is_right(3);
	/* The older one covers the other. */
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 2), 1);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 0);
	leaves_are(0, 0, 0);
	assert_int_equal(fault_at(MIDDLE, 0), QUIRE_FIXED);
	leaves_are(1, 0, 0);
	vm_end();
}

/* Executed first: one small page, and neighbours as large as the tables in the way allow. */
static void test_nx_fetch_first(void **state)
{
	(void)state;
	begin();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_int_equal(fault_at(MIDDLE, FETCH), QUIRE_FIXED);
	leaves_are(0, 0, 1);
	assert_int_equal(fault_at(MIDDLE + 1, 0), QUIRE_FIXED);
	assert_int_equal(fault_at(3, 0), QUIRE_FIXED);
	leaves_are(0, 1, 2);
	is_right(MIDDLE);
	is_right(MIDDLE + 1);
	is_right(3);
	/* Without the workaround nothing is in the way. */
	quire_vm_set_nx_huge_pages(machine.vm, 0);
	leaves_are(0, 0, 0);
	assert_int_equal(fault_at(MIDDLE, FETCH), QUIRE_FIXED);
	leaves_are(1, 0, 0);
	assert_true(executable_at(MIDDLE));
	vm_end();
}

/* A page of the block turns private, and shared again. */
static void test_attributes(void **state)
{
	gpa_t at = {PAGES(MIDDLE)};

	(void)state;
	begin_type(QUIRE_VM_SW_PROTECTED);
	add_slot(0, SIM_GIGANTIC, 0);
	store_backed(MIDDLE, 1);
	leaves_are(1, 0, 0);
	assert_int_equal(quire_vm_set_attributes(machine.vm, at, PAGES(1), QUIRE_ATTRIBUTE_PRIVATE),
			 0);
	leaves_are(0, 0, 0);
	store_backed(5, 2);
	store_backed(MIDDLE + 1, 3);
	leaves_are(0, 1, 1);
	assert_int_equal(quire_vm_set_attributes(machine.vm, at, PAGES(1), 0), 0);
	/* One leaf takes the place of the smaller ones. */
	assert_int_equal(load(MIDDLE), 1);
	leaves_are(1, 0, 0);
	assert_int_equal(load(5), 2);
	assert_int_equal(load(MIDDLE + 1), 3);
	vm_end();
}

static void test_slot_deleted(void **state)
{
	(void)state;
	begin();
	store_backed(MIDDLE, 1);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	leaves_are(0, 0, 0);
	assert_int_equal(fault_at(MIDDLE, 0), QUIRE_EMULATE);
	vm_end();
}

static void test_prefault(void **state)
{
	uint64_t done;

	(void)state;
	begin();
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){PAGES(MIDDLE)},
					     PAGES(SIM_GIGANTIC - MIDDLE), &done),
			 0);
	assert_int_equal(done, PAGES(SIM_GIGANTIC - MIDDLE));
	leaves_are(1, 0, 0);
	vm_end();
}

static void test_age(void **state)
{
	hva_t start = sim_hva(MIDDLE), end = sim_hva(MIDDLE + 1);

	(void)state;
	begin();
	assert_int_equal(quire_vm_age(machine.vm, start, end, QUIRE_AGE_CLEAR), 0);
	store_backed(5, 1);
	/* One leaf has one A. */
	assert_int_equal(quire_vm_age(machine.vm, start, end, QUIRE_AGE_TEST), 1);
	assert_int_equal(quire_vm_age(machine.vm, start, end, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(quire_vm_age(machine.vm, start, end, QUIRE_AGE_TEST), 0);
	leaves_are(1, 0, 0);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mapped),
	    cmocka_unit_test(test_slots_that_do_not_fit),
	    cmocka_unit_test(test_part_replaced),
	    cmocka_unit_test(test_nx),
	    cmocka_unit_test(test_nx_fetch_first),
	    cmocka_unit_test(test_attributes),
	    cmocka_unit_test(test_slot_deleted),
	    cmocka_unit_test(test_prefault),
	    cmocka_unit_test(test_age),
	};

	return run_formats_rows(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
