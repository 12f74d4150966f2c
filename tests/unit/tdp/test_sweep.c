/* Debts that are settled: what they unlinked is counted off and given back. */
#include "tests/unit/support.h"

#include <quire/trace.h>

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

#define SECOND (SIM_BLOCK + 7)

static void begin(void)
{
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	map_pages(SIM_BLOCK, 16, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	store(1, 5);
	store(2, 5);
	store(SECOND, 5);
	leaves_are(0, 0, 3);
}

static void zap(struct flush_debt *debt, uint64_t start, uint64_t end)
{
	biglock_write_lock(&machine.vm->mmu_lock);
	tdp_zap_range(machine.vm, 1, (gfn_t){start}, (gfn_t){end}, debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
}

static void settle(struct flush_debt *debt)
{
	tdp_debt_settle(machine.vm, debt);
	assert_false(debt->owed);
	assert_null(debt->tables);
	assert_int_equal(debt->table_count, 0);
}

/* Where no table went no reader is waited for, be a flush owed or not. */
static void test_no_table(void **state)
{
	struct flush_debt debt;
	uint64_t epoch;

	(void)state;
	begin();
	flush_debt_init(&debt, &machine.vm->flush);
	epoch = reclaim_epoch;
	settle(&debt);
	zap(&debt, 1, 2);
	assert_true(debt.owed);
	settle(&debt);
	assert_int_equal(reclaim_epoch, epoch);
	leaves_are(0, 0, 2);
	/* One grace period serves for all that went. */
	zap(&debt, 0, 2 * SIM_BLOCK);
	assert_int_equal(debt.table_count, 2);
	settle(&debt);
	assert_int_equal(reclaim_epoch, epoch + 1);
	leaves_are(0, 0, 0);
	vm_end();
}

/* The same debt serves again, and each table comes back once. */
static void test_settles_again(void **state)
{
	struct flush_debt debt;
	uint64_t free_count;

	(void)state;
	begin();
	flush_debt_init(&debt, &machine.vm->flush);
	for (unsigned int round = 0; round < 3; round++) {
		free_count = machine.vm->arena.free_count;
		zap(&debt, 0, SIM_BLOCK);
		assert_int_equal(debt.table_count, 1);
		zap(&debt, SIM_BLOCK, 2 * SIM_BLOCK);
		assert_int_equal(debt.table_count, 2);
		settle(&debt);
		assert_int_equal(machine.vm->arena.free_count, free_count + 2);
		leaves_are(0, 0, 0);
		store(1, 5);
		store(SECOND, 5);
		leaves_are(0, 0, 2);
	}
	vm_end();
}

/* A table of tables takes those below it along. */
static void test_tables_below(void **state)
{
	struct flush_debt debt;
	uint64_t free_count;

	(void)state;
	begin();
	flush_debt_init(&debt, &machine.vm->flush);
	free_count = machine.vm->arena.free_count;
	zap(&debt, 0, SIM_GIGANTIC);
	assert_int_equal(debt.table_count, 1);
	leaves_are(0, 0, 3);
	settle(&debt);
	leaves_are(0, 0, 0);
	assert_int_equal(machine.vm->arena.free_count, free_count + 3);
	vm_end();
}

static uint64_t gone;

static void count_gone(enum quire_trace_event which, const uint64_t *args)
{
	const struct entry_format *f = &machine.vm->tdp_format;

	if (which == QUIRE_TRACE_kvm_tdp_mmu_spte_changed && args[3] == QUIRE_LEVEL_4K &&
	    entry_is_present(f, args[1]) && !entry_is_present(f, args[2]))
		gone++;
}

/* Each leaf is told of once, whatever table stands behind its own: the first entries of all are
 * used. */
static void test_each_leaf_once(void **state)
{
	struct flush_debt debt;

	(void)state;
	begin();
	store(0, 5);
	store(SIM_BLOCK, 5);
	leaves_are(0, 0, 5);
	flush_debt_init(&debt, &machine.vm->flush);
	gone = 0;
	quire_trace_install(count_gone);
	zap(&debt, 0, SIM_BLOCK);
	zap(&debt, SIM_BLOCK, 2 * SIM_BLOCK);
	settle(&debt);
	quire_trace_install(NULL);
	assert_int_equal(gone, 5);
	vm_end();
}

/* A table that NX recovery could find is not found any more as soon as it is unlinked. */
static void test_leaves_the_list(void **state)
{
	struct flush_debt debt;

	(void)state;
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_int_equal(fault_at(5, QUIRE_PFERR_FETCH), QUIRE_FIXED);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 1);
	flush_debt_init(&debt, &machine.vm->flush);
	zap(&debt, 0, SIM_BLOCK);
	assert_int_equal(debt.table_count, 1);
	assert_false(debt.tables->nx_listed);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), 0);
	settle(&debt);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_table),	    cmocka_unit_test(test_settles_again),
	    cmocka_unit_test(test_tables_below),    cmocka_unit_test(test_each_leaf_once),
	    cmocka_unit_test(test_leaves_the_list),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
