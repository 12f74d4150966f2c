/* The huge leaf that comes back with the log's end: made of what a table of tables still maps. */
#include "tests/unit/support.h"

#include "src/base/reclaim.h"
#include "src/tdp/tdp.h"

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

/* What recovery asks, and the answer. */
static struct {
	uint64_t gfns[8];
	uint32_t levels[8], count;
	uint32_t lowest; /* huge leaves at this level and above are allowed */
} asks;

static bool allow(void *ctx, gfn_t gfn, u32 level)
{
	assert_ptr_equal(ctx, &asks);
	assert_in_range(asks.count, 0, 7);
	asks.gfns[asks.count] = gfn.v;
	asks.levels[asks.count++] = level;
	return level <= asks.lowest;
}

/* Huge leaves up to @level come back in [start, end); what is owed for it. */
static struct flush_debt recover(uint64_t start, uint64_t end, uint32_t level)
{
	const struct tdp_recovery recovery = {
	    .start = {start}, .end = {end}, .allowed = allow, .ctx = &asks};
	struct flush_debt debt, owed;

	memset(&asks, 0, sizeof(asks));
	asks.lowest = level;
	flush_debt_init(&debt, &machine.vm->flush);
	biglock_write_lock(&machine.vm->mmu_lock);
	tdp_recover_range(machine.vm, &recovery, &debt);
	biglock_write_unlock(&machine.vm->mmu_lock);
	owed = debt;
	tdp_debt_settle(machine.vm, &debt);
	return owed;
}

static void asked(uint32_t which, uint64_t gfn, uint32_t level)
{
	assert_true(which < asks.count);
	assert_int_equal(asks.gfns[which], gfn);
	assert_int_equal(asks.levels[which], level);
}

/* Blocks that the range has as a whole are asked for, larger ones first, and no others. */
static void test_whole_blocks(void **state)
{
	struct flush_debt debt;

	(void)state;
	begin();
	for (uint64_t block = 0; block < 4; block++)
		touch(block * SIM_BLOCK + 9 * block);
	leaves_are(0, 0, 4);
	debt = recover(1, 3 * SIM_BLOCK - 1, QUIRE_LEVEL_2M);
	assert_int_equal(asks.count, 1);
	asked(0, SIM_BLOCK, QUIRE_LEVEL_2M);
	assert_true(debt.owed);
	assert_int_equal(debt.table_count, 1);
	leaves_are(0, 1, 3);
	assert_int_equal(level_at(SIM_BLOCK), QUIRE_LEVEL_2M);
	/* It is there already. */
	debt = recover(SIM_BLOCK, 2 * SIM_BLOCK, QUIRE_LEVEL_2M);
	assert_int_equal(asks.count, 0);
	assert_false(debt.owed || debt.table_count);
	/* Nothing changes where none is allowed. */
	debt = recover(0, SIM_GIGANTIC, 0);
	assert_int_equal(asks.count, 4);
	asked(0, 0, QUIRE_LEVEL_1G);
	asked(1, 0, QUIRE_LEVEL_2M);
	asked(2, 2 * SIM_BLOCK, QUIRE_LEVEL_2M);
	asked(3, 3 * SIM_BLOCK, QUIRE_LEVEL_2M);
	assert_false(debt.owed || debt.table_count);
	leaves_are(0, 1, 3);
	debt = recover(0, SIM_GIGANTIC - 1, QUIRE_LEVEL_1G);
	assert_int_equal(asks.count, 3);
	leaves_are(0, 4, 0);
	debt = recover(0, SIM_GIGANTIC, QUIRE_LEVEL_1G);
	assert_int_equal(asks.count, 1);
	asked(0, 0, QUIRE_LEVEL_1G);
	assert_true(debt.owed);
	assert_int_equal(debt.table_count, 1);
	leaves_are(1, 0, 0);
	vm_end();
}

/* The word of the huge leaf that comes back: what the small one at @small allows, of the block's
 * first frame. */
static void check_leaf(uint64_t small, bool writable, bool executable)
{
	const struct entry_format *f = &machine.vm->tdp_format;
	uint32_t level;
	uint64_t was = leaf_at(small, &level), block = small / SIM_BLOCK * SIM_BLOCK, now;
	struct entry_leaf leaf = {.level = QUIRE_LEVEL_2M,
				  .accessed = true,
				  .executable = executable,
				  .writable = writable,
				  .mmu_writable = writable,
				  .host_writable = writable};

	assert_int_equal(level, QUIRE_LEVEL_4K);
	leaf.pfn.v = entry_pfn(f, was).v - small % SIM_BLOCK;
	(void)recover(block, block + SIM_BLOCK, QUIRE_LEVEL_2M);
	assert_int_equal(asks.count, 1);
	now = leaf_at(small, &level);
	assert_int_equal(level, QUIRE_LEVEL_2M);
	assert_int_equal(now, entry_make_leaf(f, &leaf));
}

/* A huge leaf has W where the small one may get it, and can be executed unless NX is on. */
static void test_rights(void **state)
{
	(void)state;
	begin();
	touch(SIM_BLOCK + 7);
	/* The log takes W, and what comes back has it. */
	assert_int_equal(log_harvest(0), 1);
	assert_false(writable_at(SIM_BLOCK + 7));
	check_leaf(SIM_BLOCK + 7, true, true);
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	touch(2 * SIM_BLOCK + 511);
	check_leaf(2 * SIM_BLOCK + 511, true, false);
	vm_end();
	vm_begin();
	sim_map_gigantic(&machine.host, 0, 0);
	add_slot(0, SIM_GIGANTIC, QUIRE_SLOT_LOG_DIRTY);
	(void)load(SIM_BLOCK + 7);
	check_leaf(SIM_BLOCK + 7, false, true);
	vm_end();
}

/* Where the host forbids to execute, a huge leaf forbids it; with NX on it could not tell why. */
static void test_host_forbids_fetches(void **state)
{
	(void)state;
	for (int nx = 0; nx < 2; nx++) {
		vm_begin();
		sim_map_gigantic(&machine.host, 0, SIM_WRITABLE | SIM_NOEXEC);
		add_slot(0, SIM_GIGANTIC, QUIRE_SLOT_LOG_DIRTY);
		quire_vm_set_nx_huge_pages(machine.vm, nx);
		touch(SIM_BLOCK + 7);
		if (nx) {
			assert_false(recover(0, SIM_GIGANTIC, QUIRE_LEVEL_1G).owed);
			leaves_are(0, 0, 1);
		} else {
			check_leaf(SIM_BLOCK + 7, true, false);
		}
		vm_end();
	}
}

/* The entry of the small leaf at @gfn. */
static uint64_t *small_at(uint64_t gfn)
{
	uint32_t level;
	uint64_t *entry;

	reclaim_enter();
	entry = tdp_find(machine.vm, machine.vm->roots.valid[0], (gfn_t){gfn}, &level);
	reclaim_leave();
	assert_int_equal(level, QUIRE_LEVEL_4K);
	return entry;
}

/* Nothing larger than 1 GiB comes back, although its frames were in a row. */
static void test_sizes(void **state)
{
	const struct entry_format *f;
	uint64_t *entry, word;

	(void)state;
	begin();
	f = &machine.vm->tdp_format;
	touch(SIM_BLOCK + 7);
	entry = small_at(SIM_BLOCK + 7);
	word = *entry;
	*entry =
	    (word & ~f->address) | entry_place_pfn(f, (pfn_t){(UINT64_C(1) << 27) + SIM_BLOCK + 7});
	(void)recover(0, UINT64_C(1) << 27, 0);
	assert_int_equal(asks.count, 2);
	asked(0, 0, QUIRE_LEVEL_1G);
	asked(1, SIM_BLOCK, QUIRE_LEVEL_2M);
	*entry = word;
	vm_end();
}

/* What comes back is cached as its first page was, and the modes that could not fetch cannot. */
static void test_kinds_of_pages(void **state)
{
	const struct entry_format *f;
	uint64_t *entry, huge;
	uint32_t level;

	(void)state;
	begin();
	f = &machine.vm->tdp_format;
	touch(SIM_BLOCK + 7);
	entry = small_at(SIM_BLOCK + 7);
	*entry = (*entry & ~(f->memtype | f->executable_user)) | f->memtypes[QUIRE_MEMTYPE_WC];
	(void)recover(0, SIM_BLOCK * 2, QUIRE_LEVEL_2M);
	leaves_are(0, 1, 0);
	huge = leaf_at(SIM_BLOCK, &level);
	assert_int_equal(huge & f->memtype, f->memtypes[QUIRE_MEMTYPE_WC]);
	assert_int_equal(huge & f->executable_user, 0);
	assert_int_equal(huge & f->executable, f->executable);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_first_table_is_empty),
	    cmocka_unit_test(test_all_tables_are_empty),
	    cmocka_unit_test(test_not_executable),
	    cmocka_unit_test(test_whole_blocks),
	    cmocka_unit_test(test_rights),
	    cmocka_unit_test(test_host_forbids_fetches),
	    cmocka_unit_test(test_sizes),
	    cmocka_unit_test(test_kinds_of_pages),
	};

	return run_formats_rows(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
