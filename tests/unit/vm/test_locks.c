/* Lock contracts: each is kept by the locks it names and by stronger ones, and reported otherwise.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/base/reclaim.h"
#include "src/vm/locks.h"
#include "tests/unit/fake_host.h"

enum { SLOTS = 1, SHARED = 2, EXCLUSIVE = 4, SECTION = 8, HOLDS = 16 };

static void take(struct quire_vm *vm, unsigned int held)
{
	if (held & SLOTS)
		mutex_lock(&vm->slots_lock);
	if (held & SHARED)
		biglock_read_lock(&vm->mmu_lock, NULL);
	if (held & EXCLUSIVE)
		biglock_write_lock(&vm->mmu_lock);
	if (held & SECTION)
		reclaim_enter();
}

static void release(struct quire_vm *vm, unsigned int held)
{
	if (held & SECTION)
		reclaim_leave();
	if (held & EXCLUSIVE)
		biglock_write_unlock(&vm->mmu_lock);
	if (held & SHARED)
		biglock_read_unlock(&vm->mmu_lock, NULL);
	if (held & SLOTS)
		mutex_unlock(&vm->slots_lock);
}

static void none(const struct quire_vm *vm)
{
	(void)vm;
	locks_assert_none();
}

static bool is_shared_enough(unsigned int held)
{
	return (held & EXCLUSIVE) || (held & (SHARED | SECTION)) == (SHARED | SECTION);
}

static bool keeps(unsigned int contract, unsigned int held)
{
	const bool kept[] = {
	    held & EXCLUSIVE,		held & (SHARED | EXCLUSIVE),
	    is_shared_enough(held),	held & (SECTION | EXCLUSIVE),
	    !(held & ~(unsigned)SLOTS), held & SLOTS,
	    held & (SLOTS | SECTION),	!held,
	};

	return kept[contract];
}

static void test_contracts(void **state)
{
	static void (*const contracts[])(const struct quire_vm *) = {
	    mmu_assert_exclusive, mmu_assert_held, mmu_assert_shared,	 mmu_assert_section,
	    mmu_assert_free,	  slots_assert,	   slots_assert_section, none,
	};
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_DEFAULT);

	(void)state;
	for (unsigned int held = 0; held < HOLDS; held++) {
		if ((held & (SHARED | EXCLUSIVE)) == (SHARED | EXCLUSIVE))
			continue;
		for (unsigned int i = 0; i < sizeof(contracts) / sizeof(contracts[0]); i++) {
			take(vm, held);
			contracts[i](vm);
			release(vm, held);
			assert_int_equal(fake_reports, !keeps(i, held));
			fake_reports = 0;
		}
	}
	fake_vm_end(vm);
}

/* The locks of one VM do not satisfy the contracts of another. */
static void test_other_vm(void **state)
{
	struct quire_vm *vm = fake_vm_make(QUIRE_VM_DEFAULT);
	struct quire_vm other = {.mmu_valid_gen = 0};

	(void)state;
	take(vm, SLOTS | EXCLUSIVE);
	mmu_assert_exclusive(&other);
	mmu_assert_held(&other);
	slots_assert(&other);
	mmu_assert_free(&other);
	release(vm, SLOTS | EXCLUSIVE);
	assert_int_equal(fake_reports, 3);
	fake_reports = 0;
	fake_vm_end(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_contracts),
	    cmocka_unit_test(test_other_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
