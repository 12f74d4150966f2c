/* The list of tables that NX keeps small: one may leave it wherever it stands. */
#include "tests/unit/support.h"

#define FETCH ((uint64_t)QUIRE_PFERR_FETCH)
#define TABLES 2u

static void begin(void)
{
	vm_begin();
	for (uint32_t block = 0; block < TABLES; block++)
		sim_map_huge(&machine.host, block * SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, TABLES * SIM_BLOCK, 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	for (uint32_t block = 0; block < TABLES; block++)
		assert_int_equal(fault_at(block * SIM_BLOCK, FETCH), QUIRE_FIXED);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), TABLES);
}

/* The host takes block @block away for a moment, and with it the table that maps it. */
static void table_goes(uint32_t block)
{
	hva_t start = sim_hva(block * SIM_BLOCK), end = sim_hva((block + 1) * SIM_BLOCK);

	quire_vm_host_invalidate_begin(machine.vm, start, end);
	quire_vm_host_invalidate_end(machine.vm, start, end);
}

/* The oldest or the newest: the other stays, and is the next to be recovered. */
static void test_one_goes(void **state)
{
	(void)state;
	for (uint32_t gone = 0; gone < TABLES; gone++) {
		begin();
		table_goes(gone);
		assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), TABLES - 1);
		for (uint32_t block = 0; block < TABLES; block++) {
			if (block == gone)
				continue;
			/* The oldest that is left. */
			assert_int_equal(level_at(block * SIM_BLOCK), QUIRE_LEVEL_4K);
			assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 1000), 1);
			assert_int_equal(level_at(block * SIM_BLOCK), 0);
		}
		assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 0);
		vm_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_one_goes),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
