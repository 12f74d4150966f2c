/* MMIO entries: cached by generation, and never believed again after a wrap-around. */
#include "tests/unit/fault/support.h"

#define MMIO_GFN 100u

static void test_cached(void **state)
{
	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_mmio_spte_created),
			 1);
	/* The second access is answered from the entry, without a fault of the slow path. */
	assert_int_equal(fault_at(MMIO_GFN, QUIRE_PFERR_PRESENT | QUIRE_PFERR_RSVD), QUIRE_EMULATE);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_taken), 1);
	vm_end();
}

/* The generation of address space 0, as if so many updates had gone by. */
static void set_generation(u64 generation)
{
	machine.vm->slots.active[0]->generation = generation;
}

static void test_wrap_around(void **state)
{
	u64 last = (UINT64_C(1) << ENTRY_MMIO_GENERATION_BITS) - 2;
	uint32_t level;

	(void)state;
	vm_begin();
	map_pages(0, 8, SIM_WRITABLE);
	add_slot(0, 4, 0);
	quire_vm_set_slot_zap_all(machine.vm, 0);
	assert_int_equal(fault_at(MMIO_GFN, 0), QUIRE_EMULATE);
	/* A write of flags keeps the tables and makes a new generation, here the first of a round.
	 */
	set_generation(last);
	add_slot(0, 4, QUIRE_SLOT_LOG_DIRTY);
	assert_true(machine.vm->slots.active[0]->generation > last);
	assert_int_equal(leaf_at(MMIO_GFN, &level), 0);
	assert_int_equal(machine.vm->roots.valid[0] == NULL, 1);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cached),
	    cmocka_unit_test(test_wrap_around),
	};

	return run_both_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
