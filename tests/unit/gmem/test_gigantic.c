/* Units of 1 GiB of guest_memfd: mapped by one leaf, broken by what takes a part away, and whole
 * again. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"
#include "src/gmem/rmp.h"
#include "src/vm/vm.h"

#define TAIL 600u /* a block of 2 MiB, and pages that are none */
#define FILE_PAGES (SIM_GIGANTIC + TAIL)
#define GFN ((uint64_t)SIM_GIGANTIC)

static void begin_private(void)
{
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
}

static void begin_shared(void)
{
	gmem_begin(QUIRE_VM_DEFAULT, QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED, GFN, FILE_PAGES);
}

/* What holds for private and for shared files alike. */
static void life_of_a_unit(void)
{
	store(GFN + MIDDLE, 1);
	leaves_are(1, 0, 0);
	/* One page in each block shows what it held: the host fills those. */
	for (uint64_t i = 0; i < SIM_GIGANTIC; i += SIM_BLOCK)
		assert_int_equal(load(GFN + i), 0);
	store(GFN + SIM_GIGANTIC - 1, 2);
	leaves_are(1, 0, 0);
	/* What is left of the file is a block and some pages. */
	store(GFN + SIM_GIGANTIC + 5, 3);
	store(GFN + SIM_GIGANTIC + SIM_BLOCK + 5, 3);
	leaves_are(1, 1, 1);
	/* A page goes: its block is small from then on, the others stay blocks. */
	punch(MIDDLE, 1);
	leaves_are(0, 1, 1);
	assert_int_equal(load(GFN + SIM_GIGANTIC - 1), 2);
	leaves_are(0, 2, 1);
	assert_int_equal(load(GFN + MIDDLE), 0);
	assert_int_equal(load(GFN + MIDDLE + 1), 0);
	leaves_are(0, 2, 3);
	/* A block goes, and comes back as one. */
	punch(MIDDLE / SIM_BLOCK * SIM_BLOCK, SIM_BLOCK);
	leaves_are(0, 2, 1);
	assert_int_equal(load(GFN + MIDDLE), 0);
	leaves_are(0, 3, 1);
	/* All of it goes, and comes back whole. */
	punch(0, SIM_GIGANTIC);
	leaves_are(0, 1, 1);
	assert_int_equal(load(GFN + SIM_GIGANTIC - 1), 0);
	leaves_are(1, 1, 1);
	assert_int_equal(load(GFN + SIM_GIGANTIC + 5), 3);
}

static void test_private(void **state)
{
	struct rmp_entry entry;
	struct gmem_page page;

	(void)state;
	begin_private();
	life_of_a_unit();
	for (uint64_t i = 0; i < SIM_GIGANTIC; i += SIM_BLOCK - 1) {
		gmem_page_read(&gmem->inode->pages, i, &page);
		assert_int_equal(page.order, GMEM_GIGANTIC_ORDER);
		rmp_read(machine.vm->rmp, page.pfn, &entry);
		assert_int_equal(entry.level, QUIRE_LEVEL_2M);
		assert_int_equal(entry.gfn.v, GFN + i);
	}
	gmem_end();
}

static void test_shared(void **state)
{
	(void)state;
	begin_shared();
	life_of_a_unit();
	gmem_end();
}

/* One page turns shared and back: smaller meanwhile, whole afterwards, nothing lost. */
static void test_conversion(void **state)
{
	(void)state;
	begin_private();
	store(GFN + MIDDLE, 7);
	leaves_are(1, 0, 0);
	convert(GFN + MIDDLE + 1, 1, 0);
	leaves_are(0, 0, 0);
	assert_int_equal(load(GFN + MIDDLE), 7);
	assert_int_equal(load(GFN + 5), 0);
	leaves_are(0, 1, 1);
	convert(GFN + MIDDLE + 1, 1, QUIRE_ATTRIBUTE_PRIVATE);
	assert_int_equal(load(GFN + MIDDLE + 1), 0);
	leaves_are(1, 0, 0);
	assert_int_equal(load(GFN + MIDDLE), 7);
	gmem_end();
}

/* A lost page: its block is small, the others stay blocks. */
static void lose_a_page(void)
{
	uint8_t byte;

	store(GFN + MIDDLE, 7);
	store(GFN + 5, 8);
	leaves_are(1, 0, 0);
	quire_gmem_poison(gmem, MIDDLE + 1);
	leaves_are(0, 0, 0);
	assert_int_equal(machine_load(&machine, 0, PAGES(GFN + MIDDLE + 1), &byte), -EHWPOISON);
	assert_int_equal(load(GFN + 5), 8);
	leaves_are(0, 1, 0);
	assert_int_equal(load(GFN + MIDDLE), 7);
	leaves_are(0, 1, 1);
}

static void test_poison(void **state)
{
	(void)state;
	begin_private();
	lose_a_page();
	gmem_end();
	begin_shared();
	lose_a_page();
	gmem_end();
}

/* The guest sees the file off by a block: blocks of 2 MiB fit. */
static void test_skewed(void **state)
{
	struct gmem_page page;
	uint8_t byte = 0xff;

	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN + SIM_BLOCK, FILE_PAGES);
	store(GFN + SIM_BLOCK + 6, 6);
	leaves_are(0, 1, 0);
	/* No use of the others is made before the guest asks for them. */
	gmem_page_read(&gmem->inode->pages, SIM_BLOCK + 6, &page);
	assert_int_equal(page.order, GMEM_GIGANTIC_ORDER);
	assert_true(rmp_is_free(machine.vm->rmp, page.pfn));
	assert_int_equal(machine_load(&machine, 0, PAGES(GFN + MIDDLE), &byte), 0);
	assert_int_equal(byte, 0);
	leaves_are(0, 2, 0);
	gmem_end();
}

/* The slot shows a part of the unit, though aligned: no leaf of 1 GiB, but its blocks. */
static void test_slot_shows_a_part(void **state)
{
	struct quire_region region = {.slot = 1};

	(void)state;
	begin_private();
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	region = (struct quire_region){
	    .slot = 1,
	    .flags = QUIRE_SLOT_GMEM,
	    .gpa = {PAGES(GFN)},
	    .size_bytes = PAGES(SIM_GIGANTIC - SIM_BLOCK),
	    .hva = sim_hva(0),
	    .gmem = gmem,
	};
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	store(GFN + MIDDLE, 6);
	store(GFN + 5, 7);
	leaves_are(0, 2, 0);
	gmem_end();
}

/* There was a page of it before: it never becomes one unit around another's frame. */
static void test_mixed(void **state)
{
	(void)state;
	begin_private();
	gmem->inode->pages.max_order = 0;
	store(GFN + MIDDLE, 5);
	gmem->inode->pages.max_order = GMEM_GIGANTIC_ORDER;
	store(GFN + 6, 6);
	store(GFN + MIDDLE + 1, 7);
	leaves_are(0, 1, 2);
	assert_int_equal(load(GFN + MIDDLE), 5);
	gmem_end();
}

/* Blocks that were made one by one and happen to be side by side are one unit with the last. */
static void test_joined(void **state)
{
	const uint32_t rows_end = machine.host.rows_end, next_frame = machine.host.next_frame;

	(void)state;
	begin_private();
	/* Blocks, too, come from the row of 1 GiB. */
	machine.host.rows_end = 0;
	gmem->inode->pages.max_order = QUIRE_TABLE_BITS;
	assert_int_equal(quire_gmem_allocate(gmem, 0, PAGES(SIM_GIGANTIC - SIM_BLOCK), NULL), 0);
	gmem->inode->pages.max_order = GMEM_GIGANTIC_ORDER;
	store(GFN + SIM_GIGANTIC - 1, 5);
	machine.host.rows_end = rows_end;
	machine.host.next_frame = next_frame;
	leaves_are(1, 0, 0);
	gmem_end();
}

/* The host has no row of 1 GiB left: blocks of 2 MiB do, and become no more than that. */
static void test_no_row(void **state)
{
	(void)state;
	begin_private();
	machine.host.frames[77].references++;
	store(GFN + MIDDLE, 5);
	leaves_are(0, 1, 0);
	machine.host.frames[77].references--;
	store(GFN + 5, 6);
	leaves_are(0, 2, 0);
	/* Once all of it was gone, it is tried again. */
	punch(0, SIM_GIGANTIC);
	assert_int_equal(load(GFN + 5), 0);
	leaves_are(1, 0, 0);
	gmem_end();
}

/* Each allocation fails once: the page is there all the same, or the fault says -ENOMEM. */
static void test_no_memory(void **state)
{
	unsigned int refused = 0, smaller = 0, whole = 0;

	(void)state;
	/* The state of 512 blocks comes first, then the unit itself, then what makes it private. */
	for (uint64_t number = 1; number < 1100; number++) {
		int ret;

		if (number == 5)
			number = SIM_BLOCK - 5;
		else if (number == SIM_BLOCK + 20)
			number = 1095;

		begin_private();
		/* The root and its like are there. */
		assert_int_equal(load(GFN + SIM_GIGANTIC), 0);
		machine.host.fail_at = machine.host.allocations + number;
		ret = fault_at(GFN + MIDDLE, QUIRE_PFERR_WRITE | QUIRE_PFERR_PRIVATE);
		machine.host.fail_at = 0;
		assert_true(ret == QUIRE_FIXED || ret == -ENOMEM);
		refused += ret == -ENOMEM;
		smaller += ret == QUIRE_FIXED && !stat(QUIRE_VM_STAT_pages_1g);
		store(GFN + MIDDLE, 5);
		whole += stat(QUIRE_VM_STAT_pages_1g);
		assert_int_equal(load(GFN + 5), 0);
		gmem_end();
	}
	assert_true(refused && smaller && whole);
}

/* fallocate makes the unit exist; it is zeroed when it is used. */
static void test_allocated(void **state)
{
	(void)state;
	begin_shared();
	assert_int_equal(quire_gmem_allocate(gmem, PAGES(9), PAGES(1), NULL), 0);
	store(GFN + MIDDLE, 5);
	leaves_are(1, 0, 0);
	for (uint64_t i = 0; i < SIM_GIGANTIC; i += SIM_BLOCK)
		assert_int_equal(load(GFN + i), 0);
	gmem_end();
}

/* With the workaround on: read whole, executed small. */
static void test_nx(void **state)
{
	(void)state;
	begin_private();
	quire_vm_set_nx_huge_pages(machine.vm, 1);
	assert_int_equal(load(GFN + MIDDLE), 0);
	leaves_are(1, 0, 0);
	assert_int_equal(fault_at(GFN + 5, QUIRE_PFERR_FETCH | QUIRE_PFERR_PRIVATE),
			 QUIRE_SPURIOUS);
	leaves_are(0, BLOCKS - 1, SIM_BLOCK);
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_private),    cmocka_unit_test(test_shared),
	    cmocka_unit_test(test_conversion), cmocka_unit_test(test_poison),
	    cmocka_unit_test(test_skewed),     cmocka_unit_test(test_slot_shows_a_part),
	    cmocka_unit_test(test_mixed),      cmocka_unit_test(test_no_row),
	    cmocka_unit_test(test_no_memory),  cmocka_unit_test(test_allocated),
	    cmocka_unit_test(test_nx),	       cmocka_unit_test(test_joined),
	};

	return run_formats_rows(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
