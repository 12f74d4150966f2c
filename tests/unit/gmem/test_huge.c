/* Pages of 2 MiB of guest_memfd: mapped huge, split by what takes a part away, and huge again. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define FILE_PAGES 600u /* one whole block, and a tail that is none */
#define GFN 1024u

/* What holds for private and for shared files alike. */
static void life_of_a_block(void)
{
	store(GFN + 5, 1);
	leaves_are(0, 1, 0);
	for (uint32_t i = 6; i < 512; i++)
		assert_int_equal(load(GFN + i), 0);
	store(GFN + 300, 2);
	leaves_are(0, 1, 0);
	/* The tail is no block. */
	store(GFN + 520, 3);
	leaves_are(0, 1, 1);
	/* A part goes: the leaf goes, what stays is mapped small. */
	punch(5, 1);
	leaves_are(0, 0, 1);
	assert_int_equal(load(GFN + 300), 2);
	leaves_are(0, 0, 2);
	assert_int_equal(load(GFN + 5), 0);
	assert_int_equal(load(GFN + 300), 2);
	/* All of it goes, and comes back whole. */
	punch(0, 512);
	leaves_are(0, 0, 1);
	assert_int_equal(load(GFN + 300), 0);
	leaves_are(0, 1, 1);
	assert_int_equal(load(GFN + 520), 3);
}

static void test_private(void **state)
{
	struct rmp_entry entry;
	struct gmem_page page;

	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	life_of_a_block();
	gmem_page_read(&gmem->inode->pages, 3, &page);
	rmp_read(machine.vm->rmp, page.pfn, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_2M);
	assert_int_equal(entry.gfn.v, GFN + 3);
	gmem_end();
}

static void test_shared(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, FILE_PAGES);
	life_of_a_block();
	gmem_end();
}

/* One page turns shared and back: small meanwhile, huge afterwards, nothing lost. */
static void test_conversion(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	store(GFN + 7, 7);
	leaves_are(0, 1, 0);
	convert(GFN + 8, 1, 0);
	leaves_are(0, 0, 0);
	assert_int_equal(load(GFN + 7), 7);
	assert_int_equal(load(GFN + 9), 0);
	leaves_are(0, 0, 2);
	convert(GFN + 8, 1, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(load(GFN + 8), 0);
	leaves_are(0, 1, 0);
	assert_int_equal(load(GFN + 7), 7);
	gmem_end();
}

/* The guest sees the file off by a page: no huge mapping, and every page right. */
static void test_skewed(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN + 1, FILE_PAGES);
	store(GFN + 6, 6);
	store(GFN + 7, 7);
	leaves_are(0, 0, 2);
	assert_int_equal(load(GFN + 6), 6);
	gmem_end();
}

/* Small pages that were there before their block: it never becomes huge around old frames. */
static void test_mixed(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	gmem->inode->pages.max_order = 0;
	store(GFN + 5, 5);
	gmem->inode->pages.max_order = 9;
	store(GFN + 6, 6);
	leaves_are(0, 0, 2);
	assert_int_equal(load(GFN + 5), 5);
	gmem_end();
}

/* A row of frames cannot be had: small pages do. */
static void test_no_row(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	for (uint32_t row = 0; row < SIM_FRAMES; row += SIM_BLOCK)
		machine.host.frames[row + 77].references++;
	store(GFN + 5, 5);
	leaves_are(0, 0, 1);
	for (uint32_t row = 0; row < SIM_FRAMES; row += SIM_BLOCK)
		machine.host.frames[row + 77].references--;
	gmem_end();
}

/* Linux's order is 0. */
static void test_off(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	quire_gmem_release(gmem);
	assert_int_equal(quire_vm_set_region(machine.vm, &(struct quire_region){.slot = 1}), 0);
	vm_end();
	machine.tunables.gmem_huge_pages = 0;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	assert_int_equal(quire_gmem_create(machine.vm, PAGES(FILE_PAGES), 0, NULL, &gmem), 0);
	assert_int_equal(gmem->inode->pages.max_order, 0);
	gmem_end();
}

/* A page of the block was used before; the block's other pages are zeroed before it is huge. */
static void test_allocated(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, FILE_PAGES);
	store(GFN + 5, 5);
	punch(4, 1);
	assert_int_equal(quire_gmem_allocate(gmem, 0, PAGES(512), NULL), 0);
	for (uint32_t i = 0; i < 512; i++)
		assert_int_equal(load(GFN + i), i == 5 ? 5 : 0);
	punch(0, 512);
	assert_int_equal(quire_gmem_allocate(gmem, PAGES(9), PAGES(1), NULL), 0);
	for (uint32_t i = 0; i < 512; i++)
		assert_int_equal(load(GFN + i), 0);
	leaves_are(0, 1, 0);
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_private),    cmocka_unit_test(test_shared),
	    cmocka_unit_test(test_conversion), cmocka_unit_test(test_skewed),
	    cmocka_unit_test(test_mixed),      cmocka_unit_test(test_no_row),
	    cmocka_unit_test(test_off),	       cmocka_unit_test(test_allocated),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
