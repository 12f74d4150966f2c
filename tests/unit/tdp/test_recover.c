/* The huge leaf that comes back with the log's end: made of what a table of tables still maps. */
#include "tests/unit/support.h"

#define SECOND (3 * SIM_BLOCK + 7)

static void touch(uint64_t gfn)
{
	store(gfn, 5);
}

/* The host says that the page behind @gfn may be another, and it is not. */
static void invalidate(uint64_t gfn)
{
	hva_t start = sim_hva((uint32_t)gfn), end = {start.v + QUIRE_PAGE_SIZE};

	quire_vm_host_invalidate_begin(machine.vm, start, end);
	quire_vm_host_invalidate_end(machine.vm, start, end);
}

static void begin(void)
{
	vm_begin();
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_GIGANTIC, QUIRE_SLOT_LOG_DIRTY);
}

static void stop_log(void)
{
	assert_int_equal(machine_add_slot(&machine, 0, SIM_GIGANTIC, 0), 0);
}

/* The first of two tables maps nothing any more: the leaf is found in the second. */
static void test_first_table_is_empty(void **state)
{
	(void)state;
	begin();
	touch(5);
	touch(SECOND);
	leaves_are(0, 0, 2);
	invalidate(5);
	leaves_are(0, 0, 1);
	stop_log();
	leaves_are(1, 0, 0);
	assert_int_equal(load(SECOND), 5);
	assert_int_equal(load(5), 5);
	leaves_are(1, 0, 0);
	vm_end();
}

/* No table below maps anything: nothing comes back before it is asked for. */
static void test_all_tables_are_empty(void **state)
{
	(void)state;
	begin();
	touch(5);
	touch(SECOND);
	invalidate(5);
	invalidate(SECOND);
	stop_log();
	leaves_are(0, 0, 0);
	assert_int_equal(load(SECOND), 5);
	vm_end();
}

/* What the host forbids to execute stays so, small and huge, with the workaround off. */
static void test_not_executable(void **state)
{
	const struct entry_format *f;
	uint32_t level;

	(void)state;
	for (uint32_t forbids = 0; forbids < 2; forbids++) {
		vm_begin();
		f = &machine.vm->tdp_format;
		sim_map_huge(&machine.host, 0, SIM_WRITABLE);
		for (uint32_t i = 0; forbids && i < SIM_BLOCK; i++)
			machine.host.pages[i].flags |= SIM_NOEXEC;
		add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
		touch(5);
		leaves_are(0, 0, 1);
		assert_int_equal(entry_is_executable(f, leaf_at(5, &level)), !forbids);
		assert_int_equal(machine_add_slot(&machine, 0, SIM_BLOCK, 0), 0);
		leaves_are(0, 1, 0);
		assert_int_equal(entry_is_executable(f, leaf_at(5, &level)), !forbids);
		vm_end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_first_table_is_empty),
	    cmocka_unit_test(test_all_tables_are_empty),
	    cmocka_unit_test(test_not_executable),
	};

	return run_formats_rows(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
