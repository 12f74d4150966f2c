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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers),
	    cmocka_unit_test(test_requests),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
