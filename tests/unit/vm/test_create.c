/* Making VMs: without a platform, without memory, on machines of different widths. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include <quire/format.h>
#include <quire/stats.h>
#include <quire/vcpu.h>
#include <quire/vm.h>

#include "src/gmem/rmp.h"
#include "src/vm/vm.h"
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

/*
 * An entry that says that there is no memory needs a bit that no address has. NPT has none but in
 * the address, so on a machine of 52 bits each access to such a page is a fault of the slow path.
 */
static void test_mmio_entries(void **state)
{
	static const struct {
		enum quire_format_id format;
		unsigned int maxphyaddr;
		uint32_t caching, made;
	} cases[] = {
	    {QUIRE_FORMAT_NPT, 51, 1, 1},	{QUIRE_FORMAT_NPT, 52, 1, 0},
	    {QUIRE_FORMAT_NPT, 51, 0, 0},	{QUIRE_FORMAT_EPT, 51, 1, 1},
	    {QUIRE_FORMAT_EPT, 52, 1, 1},	{QUIRE_FORMAT_EPT, 52, 0, 0},
	    {QUIRE_FORMAT_EPT_NO_AD, 52, 1, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct quire_vm_config config = {.format = cases[i].format,
						 .maxphyaddr = cases[i].maxphyaddr,
						 .mmio_caching = cases[i].caching,
						 .host = &fake_ops};
		struct quire_memory_fault told;
		struct quire_stage2 stage2;
		struct quire_vcpu *vcpu;
		struct quire_vm *vm;
		uint64_t requests;

		fake_reset();
		assert_int_equal(quire_vm_create(&config, &vm), 0);
		assert_int_equal(quire_vcpu_create(vm, 0, NULL, &vcpu), 0);
		assert_int_equal(quire_vcpu_enter(vcpu, &requests, &stage2), 0);
		quire_vcpu_leave(vcpu);
		assert_int_equal(quire_vcpu_fault(vcpu, (gpa_t){0x1000}, 0, &told), QUIRE_EMULATE);
		assert_int_equal(quire_vcpu_stat(vcpu, QUIRE_VCPU_STAT_pf_mmio_spte_created),
				 cases[i].made);
		assert_int_equal(stage2.format->mmio_mask != 0, cases[i].made);
		quire_vcpu_destroy(vcpu);
		fake_vm_end(vm);
	}
}

/* Do two VMs of one host share the reverse map of its frames? */
static bool shares_map(struct quire_vm *vm)
{
	struct quire_vm_config config = {
	    .type = QUIRE_VM_SW_PROTECTED, .maxphyaddr = 48, .host = &fake_ops};
	struct quire_vm *other;
	bool shares;

	if (quire_vm_create(&config, &other))
		_exit(2);
	shares = other->rmp->map == vm->rmp->map;
	quire_vm_put(other);
	return shares;
}

/* The child of a fork has frames of its own: what its parent's VMs own is no matter to it. */
static void test_fork(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_SW_PROTECTED);
	int status;
	pid_t child;

	(void)state;
	assert_true(shares_map(vm));
	child = fork();
	if (!child) {
		quire_platform_forked();
		_exit(shares_map(vm));
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_true(shares_map(vm));
	fake_vm_end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_without_platform),
	    cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_mmio_entries),
	    cmocka_unit_test(test_fork),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
