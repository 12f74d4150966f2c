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

/* What is converted as a whole gives its table back, and the leaves in it are gone. */
static void test_conversion_of_a_table(void **state)
{
	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
	store(GFN + 6, 1);
	punch(5, 1);
	for (uint32_t i = 6; i < 20; i++)
		(void)load(GFN + i);
	leaves_are(0, 0, 14);
	convert(GFN, SIM_BLOCK, 0);
	leaves_are(0, 0, 0);
	gmem_end();
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

/* The slot shows a block but for its first page, aligned alike: page by page. */
static void test_first_page_is_not_shown(void **state)
{
	struct quire_region region = {.slot = 1, .flags = QUIRE_SLOT_GMEM};
	struct rmp_entry entry;
	struct gmem_page page;

	(void)state;
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, 2 * SIM_BLOCK);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	region.gpa = gpa_of((gfn_t){GFN + 1});
	region.size_bytes = PAGES(2 * SIM_BLOCK - 1);
	region.hva = sim_hva(1);
	region.gmem = gmem;
	region.gmem_offset_bytes = PAGES(1);
	assert_int_equal(quire_vm_set_region(machine.vm, &region), 0);
	store(GFN + 8, 8);
	leaves_are(0, 0, 1);
	/* Nor is the block the guest's as one: its first page has no gfn. */
	gmem_page_read(&gmem->inode->pages, 8, &page);
	rmp_read(machine.vm->rmp, page.pfn, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_4K);
	assert_int_equal(entry.gfn.v, GFN + 8);
	store(GFN + SIM_BLOCK + 8, 9);
	leaves_are(0, 1, 1);
	assert_int_equal(load(GFN + 8), 8);
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

/* A VM that has no such parameters has Linux's order. */
static void test_without_parameters(void **state)
{
	struct quire_vm_config config;
	struct quire_gmem *file;
	struct quire_vm *vm;

	(void)state;
	machine.tunables.gmem_huge_pages = 1;
	vm_begin();
	config = machine.vm->config;
	config.tunables = NULL;
	assert_int_equal(quire_vm_create(&config, &vm), 0);
	assert_int_equal(quire_gmem_create(vm, PAGES(FILE_PAGES), 0, NULL, &file), 0);
	assert_int_equal(file->inode->pages.max_order, 0);
	quire_gmem_release(file);
	quire_vm_put(vm);
	vm_end();
	machine.tunables.gmem_huge_pages = 0;
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

/* What fill_unit() was asked, and what it answers. */
static struct {
	uint32_t units[2]; /* pages, blocks */
	int64_t most;	   /* pages of a unit that it fills; 0: all */
	int64_t error;	   /* once @most pages are filled */
} fill;

static int64_t fill_unit(void *ctx, const struct quire_gmem_unit *unit)
{
	int64_t npages = INT64_C(1) << unit->order;

	(void)ctx;
	assert_true(unit->order == 0 || unit->order == 9);
	assert_int_equal(unit->pfn.v % (uint64_t)npages, 0);
	assert_int_equal(unit->gfn.v % (uint64_t)npages, 0);
	fill.units[unit->order == 9]++;
	if (fill.error && !fill.most)
		return fill.error;
	if (fill.most && fill.most < npages)
		npages = fill.most;
	for (int64_t i = 0; i < npages; i++) {
		uint8_t *page =
		    (uint8_t *)(uintptr_t)((unit->pfn.v + (uint64_t)i) << QUIRE_PAGE_SHIFT);

		memset(page, 0, SIM_FRAME_BYTES);
		page[0] = unit->source
			      ? *(uint8_t *)(uintptr_t)(unit->source[i].pfn.v << QUIRE_PAGE_SHIFT)
			      : (uint8_t)(unit->gfn.v + (uint64_t)i);
	}
	return npages;
}

static int64_t populate(uint64_t gfn, uint64_t npages, uint64_t source, unsigned int max_order)
{
	memset(fill.units, 0, sizeof(fill.units));
	return quire_gmem_populate(machine.vm, &(struct quire_gmem_fill){
						   .gfn = {gfn},
						   .npages = npages,
						   .source = {source},
						   .max_order = max_order,
						   .fill = fill_unit,
					       });
}

static void filled(uint32_t pages, uint32_t blocks)
{
	assert_int_equal(fill.units[0], pages);
	assert_int_equal(fill.units[1], blocks);
}

static void fill_begin(void)
{
	memset(&fill, 0, sizeof(fill));
	gmem_begin(QUIRE_VM_SW_PROTECTED, 0, GFN, FILE_PAGES);
}

/* A file of huge pages is filled 2 MiB at a time, and its tail by pages; mapped huge, too. */
static void test_populated(void **state)
{
	struct rmp_entry entry;
	struct gmem_page page;

	(void)state;
	fill_begin();
	assert_int_equal(populate(GFN, FILE_PAGES, 0, 9), FILE_PAGES);
	filled(FILE_PAGES - 512, 1);
	gmem_page_read(&gmem->inode->pages, 3, &page);
	rmp_read(machine.vm->rmp, page.pfn, &entry);
	assert_int_equal(entry.level, QUIRE_LEVEL_2M);
	assert_int_equal(populate(GFN, FILE_PAGES, 0, 9), -EEXIST);
	assert_int_equal(load(GFN + 300), (GFN + 300) & 0xff);
	leaves_are(0, 1, 0);
	assert_int_equal(load(GFN + 520), (GFN + 520) & 0xff);
	punch(0, FILE_PAGES);
	assert_int_equal(populate(GFN, FILE_PAGES, 0, 0), FILE_PAGES);
	filled(FILE_PAGES, 0);
	assert_int_equal(load(GFN + 300), (GFN + 300) & 0xff);
	leaves_are(0, 1, 0);
	gmem_end();
}

/* A unit is all private, all asked for, and new: else pages, up to the first that is refused. */
static void test_populated_in_part(void **state)
{
	(void)state;
	fill_begin();
	assert_int_equal(populate(GFN + 1, 512, 0, 9), 512);
	filled(512, 0);
	punch(0, FILE_PAGES);
	assert_int_equal(populate(GFN, 511, 0, 9), 511);
	filled(511, 0);
	punch(0, FILE_PAGES);
	convert(GFN + 40, 1, 0);
	assert_int_equal(populate(GFN, 512, 0, 9), 40);
	convert(GFN + 40, 1, QUIRE_ATTRIBUTE_PRIVATE);
	punch(0, FILE_PAGES);
	store(GFN + 3, 1);
	assert_int_equal(populate(GFN, 512, 0, 9), -EEXIST);
	filled(0, 0);
	gmem_end();
}

/* What a unit is short of is as new: zero, no VM's, and filled by the next request. */
static void test_populated_short(void **state)
{
	struct gmem_page page;

	(void)state;
	fill_begin();
	fill.most = 100;
	assert_int_equal(populate(GFN, FILE_PAGES, 0, 9), 100);
	filled(0, 1);
	gmem_page_read(&gmem->inode->pages, 100, &page);
	assert_int_equal(page.state, GMEM_PAGE_EXISTS);
	assert_true(rmp_is_free(machine.vm->rmp, page.pfn));
	fill.most = 0;
	assert_int_equal(populate(GFN + 100, 12, 0, 9), 12);
	assert_int_equal(load(GFN + 111), (GFN + 111) & 0xff);
	leaves_are(0, 1, 0);
	assert_int_equal(load(GFN + 99), (GFN + 99) & 0xff);
	assert_int_equal(load(GFN + 112), 0);
	assert_int_equal(load(GFN + 511), 0);
	punch(0, FILE_PAGES);
	fill.error = -ENOENT;
	assert_int_equal(populate(GFN, 512, 0, 9), -ENOENT);
	filled(0, 1);
	gmem_page_read(&gmem->inode->pages, 0, &page);
	assert_true(rmp_is_free(machine.vm->rmp, page.pfn));
	assert_int_equal(load(GFN), 0);
	leaves_are(0, 1, 0);
	gmem_end();
}

/* Each page of a unit has its own source. Where one is missing, those before it are filled. */
static void test_populated_from(void **state)
{
	(void)state;
	fill_begin();
	for (uint32_t page = 0; page < 512; page++) {
		map_pages(page, 1, SIM_WRITABLE);
		frame_of(page)->bytes[0] = (uint8_t)(page * 7);
	}
	assert_int_equal(populate(GFN, 512, sim_hva(0).v, 9), 512);
	filled(0, 1);
	for (uint32_t i = 0; i < 512; i++)
		assert_int_equal(load(GFN + i), i * 7 & 0xff);
	punch(0, FILE_PAGES);
	assert_int_equal(populate(GFN, 512, sim_hva(12).v, 9), 500);
	filled(500, 0);
	assert_int_equal(load(GFN + 499), 511 * 7 & 0xff);
	/* The sources' references are back: gmem_end() counts. */
	gmem_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_private),
	    cmocka_unit_test(test_shared),
	    cmocka_unit_test(test_conversion),
	    cmocka_unit_test(test_conversion_of_a_table),
	    cmocka_unit_test(test_skewed),
	    cmocka_unit_test(test_first_page_is_not_shown),
	    cmocka_unit_test(test_mixed),
	    cmocka_unit_test(test_no_row),
	    cmocka_unit_test(test_off),
	    cmocka_unit_test(test_without_parameters),
	    cmocka_unit_test(test_allocated),
	    cmocka_unit_test(test_populated),
	    cmocka_unit_test(test_populated_in_part),
	    cmocka_unit_test(test_populated_short),
	    cmocka_unit_test(test_populated_from),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
