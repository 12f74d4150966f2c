/* What is refused without a look at memory: all calls of a VM that is dead, and flags unknown. */
#include "tests/unit/support.h"

#include <quire/dirty.h>
#include <quire/view.h>

static void test_dead(void **state)
{
	struct quire_memory_fault told = {.size_bytes = 1};
	struct quire_view_tables tables;

	vm_begin();
	map_pages(0, 1, SIM_WRITABLE);
	add_slot(0, 1, 0);
	store(0, 5);
	vm_poison(machine.vm);
	assert_int_equal(quire_vcpu_fault(machine.vcpus[0], (gpa_t){0}, QUIRE_PFERR_WRITE, &told),
			 -EIO);
	assert_int_equal(told.size_bytes, 0);
	assert_int_equal(quire_vm_view_tables(machine.vm, &tables), -EIO);
	assert_int_equal(quire_vm_reset_dirty_rings(machine.vm, NULL), -EIO);
	machine.vm->dead = 0;
	assert_int_equal(quire_vm_view_tables(machine.vm, &tables), 0);
	vm_end();
}

static void test_flags_of_the_log(void **state)
{
	vm_begin();
	for (uint64_t flags = 0; flags < 8; flags++)
		assert_int_equal(quire_vm_set_manual_protect(machine.vm, flags),
				 flags == 0 || flags == 1 || flags == 3 ? 0 : -EINVAL);
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, UINT64_C(1) << 32), -EINVAL);
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, 0), 0);
	vm_end();
}

static int inner;

static int take_nothing(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	return 0;
}

/* The log is asked for a second time while the first copy has its words, and there is no memory. */
static int take_again(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	machine.host.fail_at = machine.host.allocations + 1;
	inner = quire_vm_get_dirty_log(machine.vm, 0, take_nothing, NULL);
	machine.host.fail_at = 0;
	return 0;
}

static void test_two_copies_of_a_log(void **state)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, QUIRE_SLOT_LOG_DIRTY);
	store(2, 5);
	assert_int_equal(quire_vm_get_dirty_log(machine.vm, 0, take_again, NULL), 0);
	assert_int_equal(inner, -ENOMEM);
	/* Nothing stays lent. */
	store(1, 5);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(1));
	vm_end();
}

/* A count of leaves that is below zero for a moment, while a vCPU goes, is told as none. */
static void test_leaves_below_zero(void **state)
{
	uint64_t *leaves;

	vm_begin();
	leaves = &machine.vm->leaves[QUIRE_LEVEL_4K];
	for (uint64_t below = 1; below < 4; below++) {
		*leaves = -below;
		assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
	}
	*leaves = 0;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_dead),
	    cmocka_unit_test(test_flags_of_the_log),
	    cmocka_unit_test(test_leaves_below_zero),
	    cmocka_unit_test(test_two_copies_of_a_log),
	};

	return run_formats(tests, 4);
}
