/* Making and ending vCPUs: their numbers, and what each refuses; and what is asked of one. */
#include "tests/unit/support.h"

static void test_numbers(void **state)
{
	struct quire_vcpu *vcpu, *again;

	vm_begin();
	assert_int_equal(quire_vcpu_create(machine.vm, 4096, NULL, &vcpu), -EINVAL);
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &vcpu), 0);
	assert_int_equal(quire_vcpu_id(vcpu), 4095);
	/* One that is there, of this call or of the machine's. */
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &again), -EEXIST);
	assert_int_equal(quire_vcpu_create(machine.vm, 0, NULL, &again), -EEXIST);
	quire_vcpu_destroy(vcpu);
	assert_int_equal(quire_vcpu_create(machine.vm, 4095, NULL, &again), 0);
	quire_vcpu_destroy(again);
	vm_end();
}

/* A request kicks its vCPU, and the first call that asks for it takes it. */
static void test_requests(void **state)
{
	const uint64_t first = UINT64_C(1) << 40, second = UINT64_C(1) << 41;
	struct quire_vcpu *vcpu;
	uint64_t kicks;

	(void)state;
	vm_begin();
	vcpu = machine.vcpus[0];
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), 0);
	kicks = machine.host.kicks;
	quire_vcpu_request(vcpu, first);
	assert_true(machine.host.kicks > kicks);
	quire_vcpu_request(vcpu, second);
	assert_int_equal(quire_vcpu_take_requests(machine.vcpus[1], UINT64_MAX), 0);
	assert_int_equal(quire_vcpu_take_requests(vcpu, second), second);
	assert_int_equal(quire_vcpu_take_requests(vcpu, second), 0);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), first);
	assert_int_equal(quire_vcpu_take_requests(vcpu, UINT64_MAX), 0);
	vm_end();
}

/* A flush is counted when it is asked for, and when it is done; where nothing goes there is none.
 */
static void test_flushes_are_counted(void **state)
{
	uint64_t asked, done;

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 1);
	asked = stat(QUIRE_VM_STAT_remote_tlb_flush_requests);
	done = stat(QUIRE_VM_STAT_remote_tlb_flush);
	for (uint32_t page = 3; page > 0; page--) {
		quire_vm_host_invalidate_begin(machine.vm, sim_hva(page), sim_hva(page + 1));
		quire_vm_host_invalidate_end(machine.vm, sim_hva(page), sim_hva(page + 1));
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush_requests),
				 asked + (page == 1));
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), done + (page == 1));
	}
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_flushes_are_counted),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
