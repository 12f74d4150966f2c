/* Huge pages split on request, ahead of a log. */
#include <errno.h>

#include <quire/dirty.h>

#include "tests/unit/gmem/support.h"

#define SLOT_PAGES (2 * SIM_BLOCK)
#define BYTES(pages) ((uint64_t)(pages) << QUIRE_PAGE_SHIFT)

/* Two huge pages, both written. */
static void begin(void)
{
	vm_begin();
	machine.tunables.eager_page_split = 0;
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	sim_map_huge(&machine.host, SIM_BLOCK, SIM_WRITABLE);
	add_slot(0, SLOT_PAGES, 0);
	for (uint64_t gfn = 5; gfn < SLOT_PAGES; gfn += SIM_BLOCK)
		assert_int_equal(machine_store(&machine, 0, BYTES(gfn), 1), 0);
	leaves_are(0, 2, 0);
}

static void end(void)
{
	machine.tunables.eager_page_split = 1;
	vm_end();
}

static int split(uint64_t gfn, uint64_t npages, uint64_t *done_pages)
{
	uint64_t done_bytes = 0;
	int err = quire_vm_split(machine.vm, 0, (gpa_t){BYTES(gfn)}, BYTES(npages), &done_bytes);

	*done_pages = done_bytes >> QUIRE_PAGE_SHIFT;
	return err;
}

/* Writing goes on without a fault; and once a lazy log has started, each first write is fast. */
static void test_no_vcpu_pays(void **state)
{
	uint64_t done, flushes, fast;

	(void)state;
	begin();
	flushes = stat(QUIRE_VM_STAT_remote_tlb_flush);
	assert_int_equal(split(0, SLOT_PAGES, &done), 0);
	assert_int_equal(done, SLOT_PAGES);
	if (!machine.vm->tdp_format.breaks)
		assert_int_equal(stat(QUIRE_VM_STAT_remote_tlb_flush), flushes);
	leaves_are(0, 0, SLOT_PAGES);
	for (uint64_t gfn = 0; gfn < SLOT_PAGES; gfn++)
		assert_true(writable_at(gfn));
	assert_int_equal(machine_add_slot(&machine, 0, SLOT_PAGES, QUIRE_SLOT_LOG_DIRTY), 0);
	fast = quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast);
	store(9, 2);
	store(SIM_BLOCK + 9, 2);
	assert_int_equal(quire_vcpu_stat(machine.vcpus[0], QUIRE_VCPU_STAT_pf_fast), fast + 2);
	assert_int_equal(log_harvest(0), 2);
	assert_true(log_has(9) && log_has(SIM_BLOCK + 9));
	end();
}

/* What meets the range is split whole, the rest stays; a step ends with the slot. */
static void test_steps(void **state)
{
	uint64_t done;

	(void)state;
	begin();
	assert_int_equal(split(SIM_BLOCK + 3, 1, &done), 0);
	assert_int_equal(done, 1);
	leaves_are(0, 1, SIM_BLOCK);
	assert_int_equal(level_at(0), QUIRE_LEVEL_2M);
	assert_int_equal(split(7, 2 * SLOT_PAGES, &done), 0);
	assert_int_equal(done, SLOT_PAGES - 7);
	leaves_are(0, 0, SLOT_PAGES);
	/* Once more is no error. */
	assert_int_equal(split(0, SIM_BLOCK, &done), 0);
	assert_int_equal(done, SIM_BLOCK);
	end();
}

static void test_refusals(void **state)
{
	struct quire_vm *vm;
	uint64_t done = 0;

	(void)state;
	begin();
	vm = machine.vm;
	assert_int_equal(split(0, 0, &done), -EINVAL);
	assert_int_equal(quire_vm_split(vm, 0, (gpa_t){1}, BYTES(1), &done), -EINVAL);
	assert_int_equal(quire_vm_split(vm, 0, (gpa_t){0}, BYTES(1) + 1, &done), -EINVAL);
	assert_int_equal(quire_vm_split(vm, 0, (gpa_t){BYTES(1)}, -BYTES(1), &done), -EINVAL);
	assert_int_equal(quire_vm_split(vm, QUIRE_AS_MAX, (gpa_t){0}, BYTES(1), &done), -EINVAL);
	leaves_are(0, 2, 0);
	assert_int_equal(done, 0);
	end();
}

/* A hole, and a slot that cannot log, are passed over as a whole: the caller goes on behind. */
static void test_nothing_to_split(void **state)
{
	const uint64_t behind = 3 * SIM_BLOCK;
	struct quire_region other = {
	    .slot = 1, .gpa = {BYTES(behind)}, .size_bytes = BYTES(8), .hva = sim_hva(behind)};
	uint64_t done;

	(void)state;
	begin();
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	assert_int_equal(split(SLOT_PAGES, 1, &done), -ENOENT);
	assert_int_equal(done, 1);
	assert_int_equal(split(SLOT_PAGES + 5, UINT64_C(1) << 30, &done), -ENOENT);
	assert_int_equal(done, behind - SLOT_PAGES - 5);
	assert_int_equal(split(behind, UINT64_C(1) << 30, &done), 0);
	assert_int_equal(done, 8);
	assert_int_equal(split(behind + 8, UINT64_C(1) << 30, &done), -ENOENT);
	assert_int_equal(done, UINT64_C(1) << 30);
	leaves_are(0, 2, 0);
	end();
}

/* The other address space has tables of its own. */
static void test_other_space(void **state)
{
	struct quire_region other = {
	    .slot = 1u << 16, .size_bytes = BYTES(SLOT_PAGES), .hva = sim_hva(0)};
	uint64_t done_bytes = 0;

	(void)state;
	begin();
	assert_int_equal(quire_vm_set_region(machine.vm, &other), 0);
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 1), 0);
	assert_int_equal(machine_store(&machine, 0, BYTES(5), 1), 0);
	leaves_are(0, 3, 0);
	assert_int_equal(quire_vm_split(machine.vm, 1, (gpa_t){0}, BYTES(SLOT_PAGES), &done_bytes),
			 0);
	assert_int_equal(done_bytes, BYTES(SLOT_PAGES));
	leaves_are(0, 2, SIM_BLOCK);
	/* Space 0 stays as it was. */
	assert_int_equal(quire_vcpu_set_address_space(machine.vcpus[0], 0), 0);
	assert_int_equal(level_at(0), QUIRE_LEVEL_2M);
	assert_int_equal(level_at(SIM_BLOCK), QUIRE_LEVEL_2M);
	end();
}

/* Without memory for a table the leaf stays huge, and a log that starts splits it later. */
static void test_no_memory(void **state)
{
	struct arena *arena;
	struct table_cache hog = {0};
	uint64_t done;

	(void)state;
	begin();
	arena = &machine.vm->arena;
	assert_int_equal(table_cache_fill(&hog, arena, (uint32_t)arena->free_count), 0);
	machine.host.fail_at = machine.host.allocations + 1;
	assert_int_equal(split(0, SLOT_PAGES, &done), -ENOMEM);
	machine.host.fail_at = 0;
	leaves_are(0, 2, 0);
	table_cache_drain(&hog, arena);
	assert_int_equal(split(0, SLOT_PAGES, &done), 0);
	leaves_are(0, 0, SLOT_PAGES);
	end();
}

/* A file's pages stay as they are, and so do those that shadow pages map. */
static void test_not_served(void **state)
{
	uint64_t done = 1;

	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, SIM_BLOCK,
		   SIM_BLOCK);
	store(SIM_BLOCK + 5, 1);
	leaves_are(0, 1, 0);
	assert_int_equal(split(SIM_BLOCK, SIM_BLOCK, &done), -EOPNOTSUPP);
	leaves_are(0, 1, 0);
	gmem_end();
	if (machine.format > QUIRE_FORMAT_EPT_NO_AD)
		return;
	machine.mmu = QUIRE_MMU_SHADOW;
	begin();
	assert_int_equal(split(0, SLOT_PAGES, &done), -EOPNOTSUPP);
	leaves_are(0, 2, 0);
	end();
	machine.mmu = QUIRE_MMU_TDP;
}

/* Where nothing is huge no table is asked for. */
static void test_nothing_huge(void **state)
{
	struct table_cache hog = {0};
	struct arena *arena;
	uint64_t done, before;

	(void)state;
	begin();
	arena = &machine.vm->arena;
	assert_int_equal(split(0, SLOT_PAGES, &done), 0);
	assert_int_equal(table_cache_fill(&hog, arena, (uint32_t)arena->free_count), 0);
	before = machine.host.allocations;
	assert_int_equal(split(0, SLOT_PAGES, &done), 0);
	assert_int_equal(done, SLOT_PAGES);
	assert_int_equal(machine.host.allocations, before);
	assert_int_equal(arena->free_count, 0);
	table_cache_drain(&hog, arena);
	end();
}

/* However much is asked for, a step ends with the 1 GiB that it is in. */
static void test_step_of_a_gigabyte(void **state)
{
	const struct quire_region region = {.size_bytes = BYTES(3 * SIM_GIGANTIC),
					    .hva = sim_hva(0)};
	uint64_t done;

	(void)state;
	vm_begin();
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	assert_int_equal(split(SIM_GIGANTIC - 10, 20, &done), 0);
	assert_int_equal(done, 10);
	assert_int_equal(split(SIM_GIGANTIC, 2 * SIM_GIGANTIC, &done), 0);
	assert_int_equal(done, SIM_GIGANTIC);
	assert_int_equal(split(3 * SIM_GIGANTIC - 10, 20, &done), 0);
	assert_int_equal(done, 10);
	vm_end();
}

/* More blocks than tables are kept in hand: each is split. They lie at another offset in 1 GiB for
 * the client, so none is larger. */
static void test_many(void **state)
{
	const uint64_t blocks = 150;
	const struct quire_region region = {
	    .gpa = {BYTES(SIM_BLOCK)}, .size_bytes = BYTES(blocks * SIM_BLOCK), .hva = sim_hva(0)};
	uint64_t done;

	(void)state;
	vm_begin();
	sim_map_gigantic(&machine.host, 0, SIM_WRITABLE);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	for (uint64_t block = 1; block <= blocks; block++)
		store(block * SIM_BLOCK + 5, 1);
	leaves_are(0, blocks, 0);
	assert_int_equal(split(SIM_BLOCK, blocks * SIM_BLOCK, &done), 0);
	assert_int_equal(done, blocks * SIM_BLOCK);
	leaves_are(0, 0, blocks * SIM_BLOCK);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest many[] = {cmocka_unit_test(test_many)};

	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_vcpu_pays),       cmocka_unit_test(test_steps),
	    cmocka_unit_test(test_refusals),	       cmocka_unit_test(test_nothing_to_split),
	    cmocka_unit_test(test_other_space),	       cmocka_unit_test(test_no_memory),
	    cmocka_unit_test(test_not_served),	       cmocka_unit_test(test_nothing_huge),
	    cmocka_unit_test(test_step_of_a_gigabyte),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0])) |
	       run_formats_kinds(many, sizeof(many) / sizeof(many[0]), 1);
}
