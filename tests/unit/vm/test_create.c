/* A program that forgot to install a platform. */
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_platform),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
