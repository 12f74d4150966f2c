/* NX huge pages: no huge leaf is executable, and what is executed comes back huge in the end. */
#include "tests/unit/support.h"

#define FETCH ((uint64_t)QUIRE_PFERR_FETCH)
#define WRITE ((uint64_t)QUIRE_PFERR_WRITE)
#define PRESENT ((uint64_t)QUIRE_PFERR_PRESENT)

static void begin_huge(int on)
{
	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, 2 * SIM_BLOCK, 0);
	quire_vm_set_nx_huge_pages(machine.vm, on);
}

static int executable_at(uint64_t gfn)
{
	uint32_t level;
	uint64_t leaf = leaf_at(gfn, &level);

	assert_true(leaf != 0);
	return entry_is_executable(&machine.vm->tdp_format, leaf);
}

static void expect(uint64_t huge, uint64_t splits)
{
	assert_int_equal(stat(QUIRE_VM_STAT_pages_2m), huge);
	assert_int_equal(stat(QUIRE_VM_STAT_nx_lpage_splits), splits);
}

static void test_off(void **state)
{
	(void)state;
	begin_huge(0);
	assert_int_equal(fault_at(0, FETCH), QUIRE_FIXED);
	assert_true(executable_at(0));
	expect(1, 0);
	vm_end();
}

static void test_read_then_fetch(void **state)
{
	(void)state;
	begin_huge(1);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	assert_false(executable_at(0));
	expect(1, 0);
	/* The leaf is there but must not be executed: it is split, and no walk sees a hole. */
	assert_int_equal(fault_at(5, FETCH | PRESENT), QUIRE_SPURIOUS);
	expect(0, 1);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), SIM_BLOCK);
	assert_true(executable_at(5));
	assert_true(executable_at(6));
	/* Reading does not put the huge leaf back. */
	assert_int_equal(fault_at(7, WRITE), QUIRE_SPURIOUS);
	expect(0, 1);
	vm_end();
}

static void test_fetch_first(void **state)
{
	(void)state;
	begin_huge(1);
	assert_int_equal(fault_at(SIM_BLOCK + 3, FETCH), QUIRE_FIXED);
	expect(0, 1);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	/* The next read of the block wants 2M and gets 4K, with the frame of its own gfn. */
	assert_int_equal(fault_at(SIM_BLOCK + 9, 0), QUIRE_FIXED);
	expect(0, 1);
	{
		uint32_t level;
		uint64_t leaf = leaf_at(SIM_BLOCK + 9, &level);

		assert_int_equal(level, QUIRE_LEVEL_4K);
		assert_int_equal(entry_pfn(&machine.vm->tdp_format, leaf).v << QUIRE_PAGE_SHIFT,
				 (uintptr_t)frame_of(SIM_BLOCK + 9)->bytes);
		/* Small as it is, it may be executed. */
		assert_true(executable_at(SIM_BLOCK + 9));
	}
	vm_end();
}

static void test_recovery(void **state)
{
	(void)state;
	begin_huge(1);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	assert_int_equal(fault_at(SIM_BLOCK + 1, FETCH), QUIRE_FIXED);
	expect(0, 2);
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 0), 0);
	/* One of two, the older one. */
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 2), 1);
	expect(0, 1);
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	expect(1, 1);
	assert_int_equal(fault_at(SIM_BLOCK + 2, 0), QUIRE_FIXED);
	expect(1, 1);
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 1), 1);
	assert_int_equal(fault_at(SIM_BLOCK + 2, 0), QUIRE_FIXED);
	expect(2, 0);
	vm_end();
}

static void test_logged(void **state)
{
	(void)state;
	begin_huge(1);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	add_slot(0, 2 * SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	/* Off the list, but the small pages stay: the slot has none but small ones now. */
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 1), 1);
	expect(0, 0);
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 1);
	vm_end();
}

/* Logging has made small pages, which are executed; what comes back huge when it stops is not. */
static void test_logging_stops(void **state)
{
	(void)state;
	begin_huge(1);
	add_slot(0, 2 * SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY);
	assert_int_equal(fault_at(0, FETCH), QUIRE_FIXED);
	assert_true(executable_at(0));
	add_slot(0, 2 * SIM_BLOCK, 0);
	expect(1, 0);
	assert_false(executable_at(0));
	/* Nor is it writable where the host may be written and the slot may not. */
	vm_end();

	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_LOG_DIRTY | QUIRE_SLOT_READONLY);
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	add_slot(0, SIM_BLOCK, QUIRE_SLOT_READONLY);
	expect(1, 0);
	assert_false(writable_at(0));
	vm_end();
}

static void test_zapped(void **state)
{
	(void)state;
	begin_huge(1);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	/* The table goes with what it mapped, and leaves the list. */
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
	expect(0, 0);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 1), 0);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	expect(0, 1);
	/* Switching it off takes everything away; what comes back is huge and executable. */
	quire_vm_set_nx_huge_pages(machine.vm, 0);
	expect(0, 0);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	assert_true(executable_at(1));
	expect(1, 0);
	vm_end();
}

/* Switched on under what is huge and executable: it is gone before anybody may look. */
static void test_switched_on(void **state)
{
	(void)state;
	begin_huge(0);
	assert_int_equal(fault_at(1, FETCH), QUIRE_FIXED);
	assert_true(executable_at(1));
	expect(1, 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	expect(0, 0);
	assert_int_equal(fault_at(1, 0), QUIRE_FIXED);
	assert_false(executable_at(1));
	vm_end();
}

static int get_combined(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int err = sim_host_ops.page_get(ctx, hva, flags, page);

	if (!err)
		page->memtype = QUIRE_MEMTYPE_WC;
	return err;
}

/* Memory of another type that the host lets the guest execute is huge, too, and not executable. */
static void test_memory_of_another_type(void **state)
{
	struct quire_host_ops ops = sim_host_ops;
	const struct entry_format *f;
	uint32_t level;

	(void)state;
	ops.page_get = get_combined;
	begin_huge(1);
	f = &machine.vm->tdp_format;
	machine.vm->host = &ops;
	assert_int_equal(fault_at(0, 0), QUIRE_FIXED);
	expect(1, 0);
	assert_false(executable_at(0));
	assert_int_equal(leaf_at(0, &level) & f->memtype, f->memtypes[QUIRE_MEMTYPE_WC]);
	machine.vm->host = &sim_host_ops;
	vm_end();
}

/* Tables that one hold of the lock may recover. */
#define BATCH 64u

/* @count blocks that lie at another offset in 1 GiB for the client, each executed. */
static void begin_blocks(uint32_t count)
{
	const struct quire_region region = {.gpa = gpa_of((gfn_t){SIM_BLOCK}),
					    .size_bytes = PAGES(count * SIM_BLOCK),
					    .hva = sim_hva(0)};

	vm_begin();
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	for (uint32_t block = 1; block <= count; block++)
		assert_int_equal(fault_at(block * SIM_BLOCK + 1, FETCH), QUIRE_FIXED);
	expect(0, count);
}

static void recovers(uint32_t ratio, uint64_t count, uint32_t holds)
{
	holds_begin();
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, ratio), count);
	assert_int_equal(holds_end(), holds);
}

/* Many go in several holds of the lock, each of which does as many as it may. */
static void test_holds(void **state)
{
	static const struct {
		uint32_t count, holds;
	} cases[] = {{1, 1}, {BATCH - 1, 1}, {BATCH, 1}, {BATCH + 1, 2}, {2 * BATCH + 1, 3}};

	(void)state;
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		begin_blocks(cases[i].count);
		recovers(1, cases[i].count, cases[i].holds);
		expect(0, 0);
		recovers(1, 0, 0);
		vm_end();
	}
}

/* What is asked for is a part, rounded up; and what was taken meanwhile by others is not found. */
static void test_parts(void **state)
{
	(void)state;
	begin_blocks(10);
	recovers(0, 0, 0);
	recovers(4, 3, 1);
	expect(0, 7);
	recovers(7, 1, 1);
	recovers(UINT32_MAX, 1, 1);
	expect(0, 5);
	machine.vm->stats[QUIRE_VM_STAT_nx_lpage_splits] += 3;
	recovers(1, 5, 1);
	expect(0, 3);
	machine.vm->stats[QUIRE_VM_STAT_nx_lpage_splits] = 0;
	vm_end();
}

int main(void)
{
	const struct CMUnitTest many[] = {
	    cmocka_unit_test(test_holds),
	    cmocka_unit_test(test_parts),
	};
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_off),
	    cmocka_unit_test(test_read_then_fetch),
	    cmocka_unit_test(test_fetch_first),
	    cmocka_unit_test(test_recovery),
	    cmocka_unit_test(test_logged),
	    cmocka_unit_test(test_logging_stops),
	    cmocka_unit_test(test_zapped),
	    cmocka_unit_test(test_switched_on),
	    cmocka_unit_test(test_memory_of_another_type),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0])) |
	       run_formats_kinds(many, sizeof(many) / sizeof(many[0]), 1);
}
