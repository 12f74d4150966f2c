/* A program that forgot to install a platform, and a host without memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <quire/vm.h>

#include "tests/unit/fake_host.h"

static void test_without_platform(void **state)
{
	struct quire_vm_config config = {.maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *vm = NULL;

	(void)state;
	assert_int_equal(quire_vm_create(&config, &vm), -ENXIO);
	assert_null(vm);
}

/* A VM is made as a whole or not at all. */
static void test_without_memory(void **state)
{
	struct quire_vm_config config = {.maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *vm = NULL;
	int error = -ENOMEM;

	(void)state;
	fake_reset();
	for (uint64_t fails = 1; error; fails++) {
		uint64_t allocs = fake.allocs;

		fake_fail_in(fails);
		error = quire_vm_create(&config, &vm);
		fake_fail_in(0);
		if (!error) {
			assert_true(fails > 1 && fake.allocs - allocs < fails);
			break;
		}
		assert_int_equal(error, -ENOMEM);
		assert_int_equal(fake.live_allocs, 0);
	}
	fake_vm_end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_platform),
	    cmocka_unit_test(test_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
