/* Dirty logging over leaves of 1 GiB: split in two steps, armed whole, and back in one. */
#include <quire/trace.h>

#include "src/tdp/tdp.h"
#include "tests/unit/support.h"

#define INITIALLY_SET 3u

/* What kvm_mmu_split_huge_page said, by level. */
static uint64_t splits[QUIRE_LEVEL_512G], failures;
static uint64_t first_level;

static void record(enum quire_trace_event event, const uint64_t *args)
{
	if (event != QUIRE_TRACE_kvm_mmu_split_huge_page)
		return;
	if (args[3]) {
		failures++;
		return;
	}
	if (!splits[QUIRE_LEVEL_2M] && !splits[QUIRE_LEVEL_1G])
		first_level = args[2];
	splits[args[2]]++;
}

static int set_flags(uint32_t flags)
{
	return machine_add_slot(&machine, 0, SIM_GIGANTIC, flags);
}

static void begin(uint32_t manual)
{
	vm_begin();
	memset(splits, 0, sizeof(splits));
	failures = 0;
	quire_trace_install(record);
	assert_int_equal(quire_vm_set_manual_protect(machine.vm, manual), 0);
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	add_slot(0, SIM_GIGANTIC, 0);
	store(MIDDLE, 2);
	leaves_are(1, 0, 0);
}

static void end(void)
{
	quire_trace_install(NULL);
	machine.tunables.eager_page_split = 1;
	vm_end();
}

/* One split of 1 GiB, then 512 of 2 MiB; nothing may be written; one write, one bit. */
static void test_start(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	leaves_are(0, 0, SIM_GIGANTIC);
	assert_int_equal(first_level, QUIRE_LEVEL_1G);
	assert_int_equal(splits[QUIRE_LEVEL_1G], 1);
	assert_int_equal(splits[QUIRE_LEVEL_2M], BLOCKS);
	assert_int_equal(failures, 0);
	for (uint64_t gfn = 0; gfn < SIM_GIGANTIC; gfn++) {
		uint32_t level;
		uint64_t leaf = leaf_at(gfn, &level);

		assert_int_equal(level, QUIRE_LEVEL_4K);
		assert_false(entry_is_writable(&machine.vm->tdp_format, leaf));
		assert_int_equal(entry_pfn(&machine.vm->tdp_format, leaf).v << QUIRE_PAGE_SHIFT,
				 (uintptr_t)frame_of((uint32_t)gfn)->bytes);
	}
	store(MIDDLE, 2);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast), 1);
	assert_int_equal(log_harvest(0), 1);
	assert_true(log_has(MIDDLE));
	end();
}

/* The children of both levels, without a flush: A, D and rights of the leaf of 1 GiB. */
static void test_children(void **state)
{
	struct table_cache tables = {0};
	uint64_t flushes, marks;
	gfn_t start = {MIDDLE};
	uint32_t level;

	(void)state;
	begin(0);
	marks = machine.vm->tdp_format.accessed | machine.vm->tdp_format.dirty |
		machine.vm->tdp_format.writable | machine.vm->tdp_format.mmu_writable;
	assert_int_equal(leaf_at(0, &level) & marks, marks);
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	/* Enough for the block of the range's end, and no more. */
	assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 2), 0);
	biglock_write_lock(&machine.vm->mmu_lock);
	assert_int_equal(tdp_split_range(machine.vm, 0, &start, (gfn_t){MIDDLE + 1}, &tables), 0);
	biglock_write_unlock(&machine.vm->mmu_lock);
	table_cache_drain(&tables, &machine.vm->arena);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	for (uint64_t gfn = 0; gfn < SIM_GIGANTIC; gfn += 77) {
		uint64_t leaf = leaf_at(gfn, &level), inside = gfn % level_pages(level);

		assert_int_equal(level, gfn / SIM_BLOCK == MIDDLE / SIM_BLOCK ? QUIRE_LEVEL_4K
									      : QUIRE_LEVEL_2M);
		assert_int_equal(leaf & marks, marks);
		assert_int_equal((entry_pfn(&machine.vm->tdp_format, leaf).v + inside)
				     << QUIRE_PAGE_SHIFT,
				 (uintptr_t)frame_of((uint32_t)gfn)->bytes);
	}
	/* But for one a split between break and make. */
	assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush),
			 flushes + 2 * machine.vm->tdp_format.breaks);
	end();
}

/* Each hold goes on where the one before ran out of tables, and not at the slot's start. */
static void test_goes_on(void **state)
{
	struct table_cache tables = {0};
	gfn_t start = {0};
	uint64_t split = 0;
	int error;

	(void)state;
	begin(0);
	do {
		uint32_t count;

		assert_int_equal(table_cache_fill(&tables, &machine.vm->arena, 2), 0);
		/* One is for the leaf of 1 GiB. */
		count = tables.count - !split;
		biglock_write_lock(&machine.vm->mmu_lock);
		error = tdp_split_range(machine.vm, 0, &start, (gfn_t){SIM_GIGANTIC}, &tables);
		biglock_write_unlock(&machine.vm->mmu_lock);
		split += count - tables.count;
		assert_int_equal(start.v, split * SIM_BLOCK);
	} while (error);
	assert_int_equal(split, BLOCKS);
	table_cache_drain(&tables, &machine.vm->arena);
	leaves_are(0, 0, SIM_GIGANTIC);
	end();
}

/* It comes back at once and whole, from the 4K leaves, and from what a lazy split has left. */
static void test_stop(void **state)
{
	uint64_t flushes;

	(void)state;
	begin(0);
	for (int eager = 1; eager >= 0; eager--) {
		machine.tunables.eager_page_split = (uint32_t)eager;
		assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
		store(MIDDLE, 2);
		flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
		assert_int_equal(set_flags(0), 0);
		leaves_are(1, 0, 0);
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush),
				 flushes + 1 + machine.vm->tdp_format.breaks);
		assert_true(writable_at(0));
		store(3, 2);
	}
	end();
}

/* A slot that was born with its log has small leaves only: one of them is enough. */
static void test_stop_with_one_page(void **state)
{
	uint32_t level;

	(void)state;
	begin(0);
	assert_int_equal(machine_add_slot(&machine, 0, 0, 0), 0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	store(MIDDLE, 2);
	leaves_are(0, 0, 1);
	assert_int_equal(set_flags(0), 0);
	leaves_are(1, 0, 0);
	assert_int_equal(entry_pfn(&machine.vm->tdp_format, leaf_at(0, &level)).v
			     << QUIRE_PAGE_SHIFT,
			 (uintptr_t)frame_of(0)->bytes);
	end();
}

/* The host has changed a page: the other blocks come back at 2 MiB. */
static void test_stop_asks_the_host(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(MIDDLE), sim_hva(MIDDLE + 1));
	sim_unmap(&machine.host, MIDDLE);
	sim_map(&machine.host, MIDDLE, SIM_WRITABLE);
	quire_vm_host_invalidate_end(machine.vm, sim_hva(MIDDLE), sim_hva(MIDDLE + 1));
	assert_int_equal(set_flags(0), 0);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK - 1);
	store(MIDDLE, 2);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	end();
}

/* Without eager splitting the leaf is protected whole, and a write splits both levels of it. */
static void test_lazy(void **state)
{
	uint8_t value;

	(void)state;
	machine.tunables.eager_page_split = 0;
	begin(0);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	leaves_are(1, 0, 0);
	assert_false(writable_at(0));
	assert_int_equal(machine_load(&machine, 0, 0, &value), 0);
	leaves_are(1, 0, 0);
	store(MIDDLE, 2);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	assert_false(writable_at(0) || writable_at(MIDDLE + 1) || writable_at(MIDDLE + SIM_BLOCK));
	assert_int_equal(splits[QUIRE_LEVEL_1G], 0);
	store(5, 2);
	assert_int_equal(log_harvest(0), 2);
	assert_true(log_has(MIDDLE) && log_has(5));
	leaves_are(0, BLOCKS - 2, 2 * SIM_BLOCK);
	end();
}

/* All bits set from the start: CLEAR splits what is in the way of the pages it names. */
static void test_clear(void **state)
{
	uint64_t first = MIDDLE / 64 * 64;

	(void)state;
	begin(INITIALLY_SET);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_int_equal(splits[QUIRE_LEVEL_1G], 0);
	assert_int_equal(log_harvest(0), SIM_GIGANTIC);
	log_clear(first, 64, 2);
	assert_int_equal(splits[QUIRE_LEVEL_1G], 1);
	assert_int_equal(splits[QUIRE_LEVEL_2M], 1);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	assert_false(writable_at(first + 1));
	assert_true(writable_at(first + 2) && writable_at(0));
	assert_int_equal(log_harvest(0), SIM_GIGANTIC - 1);
	log_clear(0, SIM_GIGANTIC, UINT64_MAX);
	leaves_are(0, 0, SIM_GIGANTIC);
	assert_int_equal(log_harvest(0), 0);
	end();
}

/* The same without eager splitting: the named page is in a leaf of 1 GiB, which loses W. */
static void test_lazy_clear(void **state)
{
	(void)state;
	machine.tunables.eager_page_split = 0;
	begin(INITIALLY_SET);
	assert_int_equal(set_flags(QUIRE_SLOT_LOG_DIRTY), 0);
	assert_true(writable_at(0));
	log_clear(MIDDLE / 64 * 64, 64, UINT64_MAX);
	leaves_are(1, 0, 0);
	assert_false(writable_at(0));
	assert_int_equal(log_harvest(0), SIM_GIGANTIC - 64);
	store(MIDDLE, 2);
	assert_int_equal(level_at(MIDDLE), QUIRE_LEVEL_4K);
	assert_int_equal(log_harvest(0), SIM_GIGANTIC - 63);
	end();
}

/* No table for the leaf of 1 GiB, or for one of 2 MiB below it: it stays, and may not be written.
 */
static void test_no_memory(void **state)
{
	(void)state;
	for (uint32_t spare = 0; spare < 3; spare++) {
		struct table_cache hog = {0}, back = {0};
		struct arena *arena;

		begin(0);
		arena = &machine.vm->arena;
		assert_int_equal(table_cache_fill(&hog, arena, (uint32_t)arena->free_count), 0);
		for (uint32_t i = 0; i < spare; i++)
			table_cache_put(&back, table_cache_take(&hog));
		table_cache_drain(&back, arena);
		/* Past the log and the slot's copies: the first chunk of tables. */
		for (uint64_t number = 1; !failures; number++) {
			machine.host.fail_at = machine.host.allocations + number;
			if (!set_flags(QUIRE_SLOT_LOG_DIRTY) && !failures)
				assert_int_equal(set_flags(0), 0);
			machine.host.fail_at = 0;
		}
		assert_int_equal(splits[QUIRE_LEVEL_1G], spare > 0);
		assert_int_equal(splits[QUIRE_LEVEL_2M], spare > 1);
		leaves_are(!spare, spare ? BLOCKS - spare + 1 : 0, spare > 1 ? SIM_BLOCK : 0);
		table_cache_drain(&hog, arena);
		for (uint64_t gfn = 0; gfn < SIM_GIGANTIC; gfn += 99)
			assert_false(writable_at(gfn));
		store(MIDDLE, 2);
		assert_int_equal(level_at(MIDDLE), QUIRE_LEVEL_4K);
		assert_int_equal(log_harvest(0), 1);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_start),
	    cmocka_unit_test(test_children),
	    cmocka_unit_test(test_goes_on),
	    cmocka_unit_test(test_stop),
	    cmocka_unit_test(test_stop_with_one_page),
	    cmocka_unit_test(test_stop_asks_the_host),
	    cmocka_unit_test(test_lazy),
	    cmocka_unit_test(test_clear),
	    cmocka_unit_test(test_lazy_clear),
	    cmocka_unit_test(test_no_memory),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
