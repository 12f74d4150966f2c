/* Making and ending vCPUs: their numbers, and what each refuses. */
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_numbers),
	};

	return run_formats(tests, 1);
}
