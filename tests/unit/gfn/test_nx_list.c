/* The list of tables that NX keeps small: in which order they come, and what is told of each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/gfn/level.h"
#include "src/vm/locks.h"
#include "tests/unit/fake_host.h"

#define TABLES 4u

static struct quire_vm *vm;
static struct table tables[TABLES];

static u64 listed(void)
{
	return vm->stats[QUIRE_VM_STAT_nx_lpage_splits];
}

/* Tables that were another's: of TDP at 2 MiB and 1 GiB, and one of a shadow page. */
static void begin(void)
{
	vm = fake_vm_make(QUIRE_VM_DEFAULT);
	memset(tables, 0x5a, sizeof(tables));
	for (u32 i = 0; i < TABLES; i++) {
		tables[i].nx_listed = 0;
		nx_table_init(&tables[i], (gfn_t){(u64)i << 18}, i % 2);
		assert_int_equal(tables[i].nx_disallowed, 0);
		assert_int_equal(tables[i].nx_listed, 0);
		tables[i].level = i == 1 ? QUIRE_LEVEL_2M : QUIRE_LEVEL_4K;
	}
	tables[2].shadowed = 1;
	biglock_write_lock(&vm->mmu_lock);
	for (u32 i = 0; i < TABLES; i++) {
		tables[i].nx_disallowed = 1;
		nx_list_add(vm, &tables[i]);
		assert_int_equal(tables[i].nx_listed, 1);
		assert_int_equal(listed(), i + 1);
	}
}

static void end(void)
{
	struct nx_range range;

	assert_int_equal(nx_list_pop(vm, &range), 0);
	assert_null(vm->nx.oldest);
	assert_null(vm->nx.newest);
	assert_int_equal(listed(), 0);
	/* What left it keeps no huge leaf away any more. */
	for (u32 i = 0; i < TABLES; i++) {
		assert_int_equal(tables[i].nx_listed, 0);
		assert_int_equal(tables[i].nx_disallowed, 0);
	}
	biglock_write_unlock(&vm->mmu_lock);
	fake_vm_end(vm);
}

static void pops(u32 i)
{
	struct nx_range range;

	assert_int_equal(nx_list_pop(vm, &range), 1);
	assert_int_equal(range.as_id, i % 2);
	assert_int_equal(range.start.v, (u64)i << 18);
	assert_int_equal(range.end.v - range.start.v, i == 1 ? 512 * 512 : 512);
	assert_ptr_equal(range.shadow, i == 2 ? &tables[i] : NULL);
}

/* Oldest first, whichever one was unlinked before: once, however often its unlinker asks. */
static void test_order(void **state)
{
	(void)state;
	for (u32 gone = 0; gone <= TABLES; gone++) {
		begin();
		for (u32 times = 0; gone < TABLES && times < 2; times++) {
			nx_list_remove(vm, &tables[gone]);
			assert_int_equal(listed(), TABLES - 1);
		}
		for (u32 i = 0; i < TABLES; i++)
			if (i != gone)
				pops(i);
		end();
	}
}

/* One after the other is unlinked, in each order; the rest stays in its own. */
static void test_unlinked(void **state)
{
	(void)state;
	for (u32 order = 0; order < TABLES * TABLES; order++) {
		u32 first = order % TABLES, second = order / TABLES;

		if (first == second)
			continue;
		begin();
		nx_list_remove(vm, &tables[first]);
		nx_list_remove(vm, &tables[second]);
		/* It comes back as the newest. */
		tables[first].nx_disallowed = 1;
		nx_list_add(vm, &tables[first]);
		for (u32 i = 0; i < TABLES; i++)
			if (i != first && i != second)
				pops(i);
		pops(first);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_order),
	    cmocka_unit_test(test_unlinked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
