/* Switching dirty rings on: which sizes, and when. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include <quire/dirty.h>
#include <quire/vcpu.h>

#include "tests/unit/fake_host.h"

static int enable(struct quire_vm *vm, uint64_t size_bytes)
{
	return quire_vm_enable_dirty_ring(vm, size_bytes);
}

/* A power of two, of a page at least, in the low half of the argument. */
static void test_sizes(void **state)
{
	static const struct {
		uint64_t size_bytes;
		int error;
	} sizes[] = {
	    {0, -EINVAL},
	    {1, -EINVAL},
	    {2, -EINVAL},
	    {3, -EINVAL},
	    {512, -EINVAL},
	    {1024, -EINVAL},
	    {QUIRE_PAGE_SIZE / 2, -EINVAL},
	    {QUIRE_PAGE_SIZE - 1, -EINVAL},
	    {QUIRE_PAGE_SIZE + 1, -EINVAL},
	    {3 * QUIRE_PAGE_SIZE, -EINVAL},
	    {UINT64_C(1) << 32, -EINVAL},
	    {2 * (uint64_t)QUIRE_RING_BYTES_MAX, -E2BIG},
	    {QUIRE_PAGE_SIZE, 0},
	    {2 * QUIRE_PAGE_SIZE, 0},
	    {QUIRE_RING_BYTES_MAX, 0},
	    {UINT64_C(1) << 32 | QUIRE_PAGE_SIZE, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct quire_vm *vm = fake_vm_make(QUIRE_VM_DEFAULT);

		assert_int_equal(enable(vm, sizes[i].size_bytes), sizes[i].error);
		assert_int_equal(quire_vm_dirty_ring_bytes(vm),
				 sizes[i].error ? 0 : (uint32_t)sizes[i].size_bytes);
		fake_vm_end(vm);
	}
}

/* Once, and before there is a vCPU. */
static void test_when(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_DEFAULT);
	struct quire_vcpu *vcpu;

	(void)state;
	assert_int_equal(quire_vcpu_create(vm, 0, NULL, &vcpu), 0);
	assert_int_equal(enable(vm, QUIRE_PAGE_SIZE), -EINVAL);
	assert_int_equal(quire_vm_dirty_ring_bytes(vm), 0);
	quire_vcpu_destroy(vcpu);
	assert_int_equal(enable(vm, QUIRE_PAGE_SIZE), 0);
	assert_int_equal(enable(vm, 2 * QUIRE_PAGE_SIZE), -EINVAL);
	assert_int_equal(quire_vm_dirty_ring_bytes(vm), QUIRE_PAGE_SIZE);
	fake_vm_end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sizes),
	    cmocka_unit_test(test_when),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
