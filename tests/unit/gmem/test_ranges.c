/* Ranges of a file's pages that are empty, past its end, or without a block; and lost pages in
 * them. */
#include "tests/unit/gmem/support.h"

#include "src/base/reclaim.h"
#include "src/gmem/gmem.h"
#include "src/vm/vm.h"

#define FILE_PAGES 1100u
#define GFN 1024u

static uint64_t frames_told;

static void tell(void *ctx, pfn_t pfn, u64 npages)
{
	(void)ctx;
	(void)pfn;
	frames_told += npages;
}

static const struct gmem_frames frames = {.tell = tell};

static struct gmem_pages *pages_of_file(void)
{
	return &gmem->inode->pages;
}

static void file_begin(void)
{
	frames_told = 0;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, FILE_PAGES);
}

static void exists(uint64_t index)
{
	assert_int_equal(quire_gmem_allocate(gmem, PAGES(index), PAGES(1), NULL), 0);
}

/* Nothing is told of such a range, and nothing of the file changes. */
static void nothing_in(uint64_t first, uint64_t npages)
{
	struct gmem_page before, after;

	gmem_page_read(pages_of_file(), FILE_PAGES - 1, &before);
	gmem_pages_tell(pages_of_file(), first, npages, &frames);
	gmem_pages_tell_settled(pages_of_file(), first, npages, &frames);
	gmem_pages_make_shared(pages_of_file(), first, npages, &frames);
	gmem_pages_punch(pages_of_file(), first, npages, &frames);
	gmem_page_read(pages_of_file(), FILE_PAGES - 1, &after);
	assert_int_equal(frames_told, 0);
	assert_int_equal(after.pfn.v, before.pfn.v);
	assert_int_equal(after.state, before.state);
	assert_true(after.state & GMEM_PAGE_EXISTS);
}

static void test_empty(void **state)
{
	(void)state;
	file_begin();
	exists(FILE_PAGES - 1);
	nothing_in(0, 0);
	nothing_in(FILE_PAGES - 1, 0);
	nothing_in(FILE_PAGES, 1);
	nothing_in(FILE_PAGES, 0);
	nothing_in(UINT64_MAX / 2, UINT64_MAX / 2);
	/* Up to the end, and no further. */
	gmem_pages_tell(pages_of_file(), FILE_PAGES - 1, UINT64_MAX, &frames);
	assert_int_equal(frames_told, 1);
	gmem_end();
}

/* Of what has no block nothing is said, whatever the order. */
static void test_units_without_blocks(void **state)
{
	static const unsigned int orders[] = {0, QUIRE_TABLE_BITS, GMEM_GIGANTIC_ORDER};

	(void)state;
	file_begin();
	for (uint32_t i = 0; i < 3; i++) {
		assert_false(gmem_unit_has(pages_of_file(), 0, orders[i], GMEM_PAGE_EXISTS));
		assert_false(gmem_unit_any(pages_of_file(), 0, orders[i], GMEM_PAGE_EXISTS));
	}
	/* Some, and not all of the gigabyte or of the block. */
	exists(519);
	punch(600, 1);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(gmem_unit_has(pages_of_file(), 519, orders[i], GMEM_PAGE_EXISTS),
				 i == 0);
		assert_true(gmem_unit_any(pages_of_file(), 519, orders[i], GMEM_PAGE_EXISTS));
		assert_false(gmem_unit_any(pages_of_file(), 519, orders[i], GMEM_PAGE_POISONED));
	}
	assert_false(gmem_unit_any(pages_of_file(), 0, QUIRE_TABLE_BITS, GMEM_PAGE_EXISTS));
	gmem_end();
}

/* A page is lost that has no block, and there is no memory for one. */
static void lose_without_memory(uint64_t index)
{
	machine.host.fail_at = machine.host.allocations + 1;
	quire_gmem_poison(gmem, index);
	machine.host.fail_at = 0;
}

static uint32_t noted(void)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < GMEM_LOST_PAGES; i++)
		count += pages_of_file()->lost[i] != 0;
	return count;
}

static bool is_lost(uint64_t index)
{
	struct gmem_page page;

	exists(index);
	gmem_page_read(pages_of_file(), index, &page);
	return page.state & GMEM_PAGE_POISONED;
}

/* Noted once each; the block of one of them says nothing of another's; a punch forgets its own. */
static void test_lost(void **state)
{
	(void)state;
	file_begin();
	lose_without_memory(3);
	lose_without_memory(3);
	assert_int_equal(noted(), 1);
	lose_without_memory(600);
	lose_without_memory(700);
	assert_int_equal(noted(), 3);
	punch(601, 99);
	punch(0, 3);
	punch(4, 9);
	assert_int_equal(noted(), 3);
	punch(700, 1);
	assert_int_equal(noted(), 2);
	punch(3, 1);
	assert_int_equal(noted(), 1);
	lose_without_memory(3);
	assert_false(is_lost(2));
	assert_int_equal(noted(), 1);
	assert_true(is_lost(3));
	assert_true(is_lost(600));
	assert_false(is_lost(700));
	assert_int_equal(noted(), 0);
	gmem_end();
}

/* More than can be noted: a punch of less than the file leaves the rest unbelieved. */
static void test_all_lost(void **state)
{
	(void)state;
	file_begin();
	for (uint64_t page = 0; page <= GMEM_LOST_PAGES; page++)
		lose_without_memory(page);
	punch(0, FILE_PAGES - 1);
	assert_true(is_lost(FILE_PAGES - 1));
	punch(1, FILE_PAGES - 1);
	for (uint64_t page = 0; page < SIM_BLOCK; page++)
		assert_true(is_lost(page));
	punch(0, FILE_PAGES);
	assert_false(is_lost(5));
	assert_false(is_lost(FILE_PAGES - 1));
	gmem_end();
	/* Whichever of them came last: it is lost, too. */
	file_begin();
	for (uint64_t page = GMEM_LOST_PAGES + 1; page--;)
		lose_without_memory(page);
	assert_true(is_lost(0));
	gmem_end();
}

/* The page of a frame, among frames in a row and others; and frames that the file has not. */
static void test_find(void **state)
{
	struct gmem_page page;
	uint64_t index = 0;

	(void)state;
	file_begin();
	assert_false(gmem_pages_find(pages_of_file(), (pfn_t){1}, &index));
	for (uint64_t i = 0; i < 5; i++)
		exists(FILE_PAGES - 1 - i * i);
	for (uint64_t i = 0; i < 5; i++) {
		gmem_page_read(pages_of_file(), FILE_PAGES - 1 - i * i, &page);
		assert_true(gmem_pages_find(pages_of_file(), page.pfn, &index));
		assert_int_equal(index, FILE_PAGES - 1 - i * i);
		assert_false(
		    gmem_pages_find(pages_of_file(), (pfn_t){page.pfn.v + (1u << 20)}, &index));
	}
	gmem_end();
}

/* A slot with a file is not modified, be it to what it is. */
static void test_slot_is_not_modified(void **state)
{
	struct quire_region region = {
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = gpa_of((gfn_t){GFN}),
	    .size_bytes = PAGES(FILE_PAGES),
	    .hva = {SIM_HVA_BASE + PAGES(GFN)},
	};

	(void)state;
	file_begin();
	region.gmem = gmem;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EINVAL);
	region.flags |= QUIRE_SLOT_LOG_DIRTY;
	assert_int_equal(quire_vm_set_region(machine.vm, &region), -EINVAL);
	store(GFN + 5, 1);
	gmem_end();
}

/*
 * The host names a frame: the page is lost, and one that no file has is none of the VM's. News that
 * come late lose no page: what failed was punched, and the frame has not failed since.
 */
static void test_lose_frame(void **state)
{
	struct gmem_page page;

	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, 8);
	assert_int_equal(quire_vm_address_spaces(machine.vm), 2);
	exists(3);
	gmem_page_read(pages_of_file(), 3, &page);
	assert_int_equal(quire_vm_lose_frame(machine.vm, (pfn_t){page.pfn.v + 1}), 0);
	assert_int_equal(quire_vm_lose_frame(machine.vm, page.pfn), 0);
	assert_false(is_lost(3));
	fail_frame(page.pfn);
	assert_int_equal(quire_vm_lose_frame(machine.vm, page.pfn), 1);
	assert_true(is_lost(3));
	gmem_end();
}

/* A host that cannot be asked: what the library is told is so. */
static void test_lose_frame_unasked(void **state)
{
	struct quire_host_ops ops = sim_host_ops;
	struct gmem_page page;

	(void)state;
	ops.frame_lost = NULL;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, 8);
	exists(3);
	gmem_page_read(pages_of_file(), 3, &page);
	pages_of_file()->host = &ops;
	assert_int_equal(quire_vm_lose_frame(machine.vm, (pfn_t){page.pfn.v + 1}), 0);
	assert_int_equal(quire_vm_lose_frame(machine.vm, page.pfn), 1);
	assert_true(is_lost(3));
	pages_of_file()->host = &sim_host_ops;
	gmem_end();
}

static int get_far(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	int error = sim_host_ops.store_get(ctx, store, index, order, pfn);

	pfn->v = machine.vm->tdp_format.frames;
	return error;
}

/* A frame that no entry can name is no memory of the guest's. */
static void test_far_frame(void **state)
{
	struct quire_host_ops ops = sim_host_ops;
	struct quire_memory_fault told = {0};

	(void)state;
	ops.store_get = get_far;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, 8);
	pages_of_file()->host = &ops;
	assert_int_equal(
	    quire_vcpu_fault(machine.vcpus[0], gpa_of((gfn_t){GFN + 3}), QUIRE_PFERR_WRITE, &told),
	    -EFAULT);
	assert_int_equal(told.gpa.v, PAGES(GFN + 3));
	assert_int_equal(told.size_bytes, PAGES(1));
	assert_int_equal(stat(QUIRE_VM_STAT_pages_4k), 0);
	pages_of_file()->host = &sim_host_ops;
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_empty),      cmocka_unit_test(test_units_without_blocks),
	    cmocka_unit_test(test_lost),       cmocka_unit_test(test_all_lost),
	    cmocka_unit_test(test_find),       cmocka_unit_test(test_slot_is_not_modified),
	    cmocka_unit_test(test_lose_frame), cmocka_unit_test(test_lose_frame_unasked),
	    cmocka_unit_test(test_far_frame),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
