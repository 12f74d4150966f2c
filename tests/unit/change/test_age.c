/* Aging: which pages were used, told from the accessed bits. */
#include "tests/unit/gmem/support.h"

static int age(uint32_t page, uint32_t npages, enum quire_age kind)
{
	return quire_vm_age(machine.vm, sim_hva(page), sim_hva(page + npages), kind);
}

/* Drop what the vCPU's TLB keeps, or it does not look at the tables again. */
static void flush(void)
{
	quire_vcpu_request(machine.vcpus[0], QUIRE_REQ_TLB_FLUSH);
}

static void test_small(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 8, 0);
	assert_int_equal(age(0, 8, QUIRE_AGE_TEST), 0);
	(void)load(3);
	assert_int_equal(age(0, 8, QUIRE_AGE_TEST), 1);
	assert_int_equal(age(0, 3, QUIRE_AGE_TEST), 0);
	assert_int_equal(age(4, 4, QUIRE_AGE_TEST), 0);
	/* To test is not to forget; to clear is. */
	assert_int_equal(age(3, 1, QUIRE_AGE_TEST), 1);
	assert_int_equal(age(3, 1, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(age(3, 1, QUIRE_AGE_CLEAR), 0);
	/* The mapping itself is untouched, and the walker notices the next use. */
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	flush();
	(void)load(3);
	assert_int_equal(age(3, 1, QUIRE_AGE_TEST), 1);
	vm_end();
}

static void test_huge(void **state)
{
	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	(void)load(100);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), 1);
	/* One bit stands for the whole leaf. */
	assert_int_equal(age(400, 1, QUIRE_AGE_CLEAR), 1);
	assert_int_equal(age(100, 1, QUIRE_AGE_TEST), 0);
	flush();
	(void)load(0);
	assert_int_equal(age(511, 1, QUIRE_AGE_TEST), 1);
	vm_end();
}

/* What was populated before any access is not young. */
static void test_prefault(void **state)
{
	uint64_t done;

	(void)state;
	vm_begin();
	map_pages(0, 2, SIM_WRITABLE);
	add_slot(0, 2, 0);
	assert_int_equal(quire_vcpu_prefault(machine.vcpus[0], (gpa_t){0}, 4096, &done), 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	assert_int_equal(age(0, 2, QUIRE_AGE_TEST), 0);
	(void)load(0);
	assert_int_equal(age(0, 2, QUIRE_AGE_TEST), 1);
	vm_end();
}

static void test_elsewhere(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 2, 0);
	(void)load(0);
	/* No slot shows pages 2 and 3; part of a page is the page. */
	assert_int_equal(age(2, 2, QUIRE_AGE_CLEAR), 0);
	assert_int_equal(quire_vm_age(machine.vm, (hva_t){sim_hva(0).v + 100},
				      (hva_t){sim_hva(0).v + 101}, QUIRE_AGE_TEST),
			 1);
	vm_end();
}

/* No page is in an empty range, wherever that lies: in a page, or in a huge leaf. */
static void test_empty(void **state)
{
	hva_t middle;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	(void)load(100);
	middle.v = sim_hva(100).v + 100;
	assert_int_equal(age(100, 0, QUIRE_AGE_CLEAR), 0);
	assert_int_equal(quire_vm_age(machine.vm, middle, middle, QUIRE_AGE_CLEAR), 0);
	assert_int_equal(quire_vm_age(machine.vm, middle, sim_hva(99), QUIRE_AGE_CLEAR), 0);
	assert_int_equal(age(100, 1, QUIRE_AGE_TEST), 1);
	vm_end();
}

/* Guest faults take nothing from the client's mapping of a file that serves all of a slot. */
static void test_served_by_a_file(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, 16, 8);
	store(19, 1);
	assert_int_equal(age(16, 8, QUIRE_AGE_CLEAR), 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_small),    cmocka_unit_test(test_huge),
	    cmocka_unit_test(test_prefault), cmocka_unit_test(test_elsewhere),
	    cmocka_unit_test(test_empty),    cmocka_unit_test(test_served_by_a_file),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
