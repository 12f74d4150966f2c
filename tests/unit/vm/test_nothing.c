/* Calls that have nothing to do: of no pages, past the end, for what is not there. */
#include "src/gfn/log.h"
#include "src/gmem/gmem.h"
#include "src/vm/vm.h"
#include "tests/unit/gmem/support.h"

#define FILE_PAGES 8u
#define GFN 1024u

static uint32_t state_of(uint64_t index)
{
	struct gmem_page page;

	gmem_page_read(&gmem->inode->pages, index, &page);
	return page.state;
}

static void test_files(void **state)
{
	uint32_t before;

	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(GFN + FILE_PAGES - 1, 7);
	before = state_of(FILE_PAGES - 1);
	assert_int_equal(quire_gmem_punch(gmem, 0, 0), 0);
	assert_int_equal(quire_gmem_punch(gmem, PAGES(FILE_PAGES), PAGES(1)), 0);
	assert_int_equal(quire_gmem_punch(gmem, PAGES(FILE_PAGES - 1), 0), 0);
	quire_gmem_poison(gmem, FILE_PAGES);
	quire_gmem_poison(gmem, UINT64_MAX);
	assert_int_equal(state_of(FILE_PAGES - 1), before);
	/* No file's frame, though a slot without a file comes first. */
	assert_int_equal(quire_vm_lose_frame(machine.vm, (pfn_t){UINT64_C(1) << 40}), 0);
	assert_int_equal(load(GFN + FILE_PAGES - 1), 7);
	gmem_end();
}

/* A private page is not waited for, so none is ready. */
static void test_page_ready(void **state)
{
	uint32_t level;

	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	quire_vcpu_page_ready(machine.vcpus[0], gpa_of((gfn_t){GFN}), 0);
	assert_int_equal(leaf_at(GFN, &level), 0);
	assert_int_equal(state_of(0), 0);
	gmem_end();
}

static void test_host(void **state)
{
	static const struct {
		uint64_t start, end;
	} ranges[] = {
	    {UINT64_MAX - 1, UINT64_MAX},
	    {UINT64_C(1) << 62, UINT64_MAX},
	    {0, 1},
	};

	(void)state;
	vm_begin();
	map_pages(0, 4, SIM_WRITABLE);
	add_slot(0, 4, 0);
	store(1, 3);
	for (uint32_t i = 0; i < 3; i++) {
		hva_t start = {ranges[i].start}, end = {ranges[i].end};

		quire_vm_host_invalidate_begin(machine.vm, start, end);
		quire_vm_host_invalidate_end(machine.vm, start, end);
		assert_true(writable_at(1));
	}
	vm_end();
}

/* Nothing is logged: no slot, a slot without a log, a ring's VM for a thread that is no vCPU. */
static void test_log(void **state)
{
	uint64_t logged;

	(void)state;
	for (int rings = 0; rings < 2; rings++) {
		machine.rings = rings;
		vm_begin();
		map_pages(0, 4, SIM_WRITABLE);
		add_slot(0, 4, 0);
		dirty_log_mark_own(machine.vm, machine.vcpus[0], 0, (gfn_t){1});
		add_slot(0, 4, QUIRE_SLOT_LOG_DIRTY);
		dirty_log_mark_own(machine.vm, machine.vcpus[0], 0, (gfn_t){100});
		dirty_log_mark_own(machine.vm, NULL, 0, (gfn_t){2});
		dirty_log_mark_own(machine.vm, NULL, 0, (gfn_t){2});
		logged = rings ? 0 : log_harvest(0);
		assert_int_equal(logged, rings ? 0 : 1);
		if (rings)
			assert_int_equal(dirty_ring_used(&machine.vcpus[0]->ring), 0);
		vm_end();
		machine.rings = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_files),
	    cmocka_unit_test(test_page_ready),
	    cmocka_unit_test(test_host),
	    cmocka_unit_test(test_log),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
