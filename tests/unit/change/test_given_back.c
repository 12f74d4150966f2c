/* Tables that a change takes out of use are free when it has ended, not only with their VM. */
#include "tests/unit/gmem/support.h"

/* A block of 2 MiB, at page 1 of the file: so no large leaf maps it. */
#define FILE_GFN 4096u

static void host_takes_block(void)
{
	quire_vm_host_invalidate_begin(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
	quire_vm_host_invalidate_end(machine.vm, sim_hva(0), sim_hva(SIM_BLOCK));
}

static void slot_goes(void)
{
	quire_vm_set_slot_zap_all(machine.vm, 0);
	add_slot(0, 0, 0);
}

static void slot_moves(void)
{
	const struct quire_region to = {
	    .gpa = gpa_of((gfn_t){8192}), .size_bytes = PAGES(SIM_BLOCK), .hva = sim_hva(0)};

	quire_vm_set_slot_zap_all(machine.vm, 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &to), 0);
}

/* The kernel maps the block by a large entry, and the next fault by a large leaf. */
static void block_collapses(void)
{
	for (uint32_t page = 0; page < SIM_BLOCK; page++)
		machine.host.pages[page].flags &= ~SIM_SMALL;
	store(5, 1);
	assert_int_equal(level_at(3), QUIRE_LEVEL_2M);
}

static void file_is_punched(void)
{
	punch(1, SIM_BLOCK);
}

static void file_is_shared(void)
{
	convert(FILE_GFN, SIM_BLOCK, 0);
}

static void file_is_released(void)
{
	quire_gmem_release(gmem);
	gmem = NULL;
}

/* A slot of one block, of whose pages one is mapped, and a page behind it that stays. */
static void begin_host(void)
{
	const struct quire_region behind = {.slot = 1,
					    .gpa = gpa_of((gfn_t){SIM_BLOCK}),
					    .size_bytes = PAGES(1),
					    .hva = sim_hva(SIM_BLOCK)};

	vm_begin();
	sim_map_huge(&machine.host, 0, SIM_WRITABLE | SIM_SMALL);
	map_pages(SIM_BLOCK, 1, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK, 0);
	assert_int_equal(quire_vm_set_region(machine.vm, &behind), 0);
	store(SIM_BLOCK, 1);
	store(3, 1);
	assert_int_equal(level_at(3), QUIRE_LEVEL_4K);
}

/* A file likewise. */
static void begin_file(void)
{
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, FILE_GFN - 1, SIM_BLOCK + 2);
	store(FILE_GFN + SIM_BLOCK, 1);
	store(FILE_GFN + 3, 1);
	assert_int_equal(level_at(FILE_GFN + 3), QUIRE_LEVEL_4K);
}

/* Each takes the block's only table out of use. */
static const struct {
	void (*begin)(void);
	void (*change)(void);
} changes[] = {
    {begin_host, host_takes_block}, {begin_host, slot_goes},	   {begin_host, slot_moves},
    {begin_host, block_collapses},  {begin_file, file_is_punched}, {begin_file, file_is_shared},
    {begin_file, file_is_released},
};

static void test_changes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		uint64_t used;

		changes[i].begin();
		used = arena_used(&machine.vm->arena);
		changes[i].change();
		assert_int_equal(arena_used(&machine.vm->arena), used - 1);
		if (gmem)
			quire_gmem_release(gmem);
		gmem = NULL;
		vm_end();
		machine.tunables.gmem_huge_pages = 0;
	}
}

/* A table that only a fetch made goes when huge pages are to come back. */
static void test_recovery(void **state)
{
	uint64_t used;

	(void)state;
	vm_begin();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	sim_map_huge(&machine.host, 0, SIM_WRITABLE);
	map_pages(SIM_BLOCK, 1, SIM_WRITABLE);
	add_slot(0, SIM_BLOCK + 1, 0);
	store(SIM_BLOCK, 1);
	assert_int_equal(fault_at(3, QUIRE_PFERR_FETCH), QUIRE_FIXED);
	assert_int_equal(level_at(3), QUIRE_LEVEL_4K);
	used = arena_used(&machine.vm->arena);
	assert_int_equal(quire_vm_recover_nx_pages(machine.vm, 1), 1);
	assert_int_equal(arena_used(&machine.vm->arena), used - 1);
	vm_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_changes),
	    cmocka_unit_test(test_recovery),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
