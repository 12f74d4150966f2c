/* Files of huge pages of the host's pool: reserved, mapped, split and joined. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"

#define GFN 1024u
#define HUGE_PAGES 2u
#define FILE_PAGES (HUGE_PAGES * SIM_BLOCK)
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE

/* The flags of huge pages of so many bytes. */
static uint64_t sized(uint64_t log2)
{
	return QUIRE_GMEM_HUGETLB | log2 << QUIRE_GMEM_HUGE_SHIFT;
}

static int make(uint64_t index, uint64_t npages, uint64_t attributes)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = PAGES(index), .size_bytes = PAGES(npages), .attributes = attributes};

	return quire_gmem_set_attributes(gmem, &conversion);
}

static void begin(uint64_t flags, int in_place)
{
	machine.in_place = in_place;
	machine.host.pool[0] = HUGE_PAGES;
	gmem_begin(QUIRE_VM_SW_PROTECTED, sized(21) | flags, GFN, FILE_PAGES);
}

static void end(void)
{
	gmem_end();
	assert_int_equal(machine.host.pool_reserved[0], 0);
	machine.in_place = 0;
	machine.host.pool[0] = 0;
}

static int try_create(uint64_t npages, uint64_t flags)
{
	struct quire_gmem *made;
	int error = quire_gmem_create(machine.vm, PAGES(npages), flags, NULL, &made);

	if (!error)
		quire_gmem_release(made);
	return error;
}

static void test_refused(void **state)
{
	(void)state;
	vm_begin_type(QUIRE_VM_SW_PROTECTED);
	/* No pool. */
	assert_int_equal(try_create(SIM_BLOCK, sized(21)), -EINVAL);
	machine.host.pool[0] = HUGE_PAGES;
	assert_int_equal(try_create(SIM_BLOCK, sized(21)), 0);
	assert_int_equal(try_create(SIM_BLOCK + 1, sized(21)), -EINVAL);
	assert_int_equal(try_create(SIM_BLOCK, sized(30)), -EINVAL);
	assert_int_equal(try_create(SIM_GIGANTIC, sized(30)), -EINVAL);
	for (unsigned int log2 = 0; log2 < 64; log2++)
		if (log2 != 21 && log2 != 30)
			assert_int_equal(try_create(SIM_GIGANTIC, sized(log2)), -EINVAL);
	assert_int_equal(try_create(SIM_BLOCK, UINT64_C(21) << QUIRE_GMEM_HUGE_SHIFT), -EINVAL);
	assert_int_equal(
	    try_create(SIM_BLOCK, sized(21) | QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED), -EINVAL);
	assert_int_equal(machine.host.pool_reserved[0], 0);
	machine.host.pool[0] = 0;
	vm_end();
}

static void test_reserved(void **state)
{
	(void)state;
	begin(0, 0);
	assert_int_equal(machine.host.pool_reserved[0], HUGE_PAGES);
	assert_int_equal(try_create(SIM_BLOCK, sized(21)), -ENOMEM);
	machine.host.pool[0] = HUGE_PAGES + 1;
	assert_int_equal(try_create(SIM_BLOCK, sized(21)), 0);
	end();
}

/* Huge from the first touch; a part that is punched is new, and the page stays huge. */
static void test_mapped(void **state)
{
	uint32_t frame;

	(void)state;
	begin(0, 0);
	machine.tunables.gmem_huge_pages = 0;
	store(GFN + 5, 5);
	store(GFN + 6, 6);
	store(GFN + 517, 17);
	leaves_are(0, 2, 0);
	frame = sim_store_frame(quire_gmem_store(gmem), 5);
	punch(5, 1);
	assert_int_equal(load(GFN + 6), 6);
	leaves_are(0, 2, 0);
	assert_int_equal(load(GFN + 5), 0);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), 5), frame);
	punch(6, SIM_BLOCK);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), 6), frame + 1);
	assert_int_equal(load(GFN + 6), 0);
	assert_int_equal(load(GFN + 517), 0);
	store(GFN + 6, 6);
	punch(0, SIM_BLOCK);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), 6), SIM_NO_FRAME);
	assert_int_equal(load(GFN + 6), 0);
	/* A lost page is as new only when all of its huge page is. */
	quire_gmem_poison(gmem, 7);
	punch(7, 1);
	assert_int_equal(machine_load(&machine, 0, gpa_of((gfn_t){GFN + 7}).v, &(uint8_t){0}),
			 -EHWPOISON);
	punch(0, SIM_BLOCK);
	assert_int_equal(load(GFN + 7), 0);
	end();
}

static void fill(void)
{
	for (uint64_t page = 0; page < 8; page++)
		store(GFN + page, (uint8_t)(page + 1));
	store(GFN + SIM_BLOCK, 100);
}

static void holds_what_was_stored(void)
{
	for (uint64_t page = 0; page < 8; page++)
		assert_int_equal(load(GFN + page), page + 1);
	assert_int_equal(load(GFN + SIM_BLOCK), 100);
}

/* All of the huge page is small while a page of it is shared, and the other one stays as it is. */
static void test_reshaped(void **state)
{
	(void)state;
	begin(QUIRE_GMEM_MMAP, 1);
	fill();
	leaves_are(0, 2, 0);
	assert_int_equal(make(3, 2, 0), 0);
	assert_int_equal(level_at(GFN + 7), 0);
	assert_int_equal(level_at(GFN + SIM_BLOCK), QUIRE_LEVEL_2M);
	assert_int_equal(sim_store_view(quire_gmem_store(gmem), 3), SIM_VIEW_SHOWN);
	holds_what_was_stored();
	leaves_are(0, 1, 8);
	store(GFN + 6, 60);
	assert_int_equal(make(3, 1, PRIVATE), 0);
	assert_int_equal(load(GFN + 6), 60);
	assert_int_equal(level_at(GFN + 6), QUIRE_LEVEL_4K);
	store(GFN + 6, 7);
	assert_int_equal(make(4, 1, PRIVATE), 0);
	holds_what_was_stored();
	leaves_are(0, 2, 0);
	/* Both at once, and pages that were never used. */
	assert_int_equal(make(0, FILE_PAGES, 0), 0);
	holds_what_was_stored();
	assert_int_equal(load(GFN + 300), 0);
	punch(7, 1);
	assert_int_equal(load(GFN + 7), 0);
	store(GFN + 7, 8);
	assert_int_equal(make(0, FILE_PAGES, PRIVATE), 0);
	holds_what_was_stored();
	assert_int_equal(load(GFN + 301), 0);
	leaves_are(0, 2, 0);
	end();
}

/* Without a client that may map it, only the guests' mappings are split. */
static void test_unmapped(void **state)
{
	uint32_t frame;

	(void)state;
	begin(0, 1);
	fill();
	frame = sim_store_frame(quire_gmem_store(gmem), 5);
	assert_int_equal(make(3, 1, 0), 0);
	holds_what_was_stored();
	leaves_are(0, 1, 8);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), 5), frame);
	assert_int_equal(make(3, 1, PRIVATE), 0);
	holds_what_was_stored();
	leaves_are(0, 2, 0);
	end();
}

/* Each allocation fails in turn: the conversion is refused, and has changed nothing. */
static void test_no_memory(void **state)
{
	uint64_t refused = 0;
	int error = -ENOMEM;

	(void)state;
	begin(QUIRE_GMEM_MMAP, 1);
	fill();
	for (uint64_t nth = 1; error; nth++) {
		machine.host.fail_at = machine.host.allocations + nth;
		error = make(3, SIM_BLOCK, 0);
		machine.host.fail_at = 0;
		if (error) {
			assert_int_equal(error, -ENOMEM);
			assert_int_equal(quire_vm_get_attributes(machine.vm, (gfn_t){GFN + 3}),
					 PRIVATE);
			refused++;
		}
		holds_what_was_stored();
		leaves_are(0, error ? 2 : 0, error ? 0 : 9);
	}
	/* The map's, two huge pages', the client's view. */
	assert_true(refused >= 4);
	/* A reunion that fails is none: the pages stay small, and hold what they held. */
	machine.host.pool[0] = HUGE_PAGES;
	assert_int_equal(make(3, SIM_BLOCK, PRIVATE), 0);
	holds_what_was_stored();
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused),  cmocka_unit_test(test_reserved),
	    cmocka_unit_test(test_mapped),   cmocka_unit_test(test_reshaped),
	    cmocka_unit_test(test_unmapped), cmocka_unit_test(test_no_memory),
	};

	return run_formats(tests, sizeof(tests) / sizeof(tests[0]));
}
