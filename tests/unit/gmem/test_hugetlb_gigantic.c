/* A file of a huge page of 1 GiB of the host's pool, converted in place: split, and one again. */
#include "tests/unit/gmem/support.h"

#include "src/gmem/gmem.h"

#define GFN ((uint64_t)SIM_GIGANTIC)
#define PRIVATE QUIRE_ATTRIBUTE_PRIVATE
#define FLAGS (QUIRE_GMEM_HUGETLB | UINT64_C(30) << QUIRE_GMEM_HUGE_SHIFT)

/* In the first block, in the next, in the middle, and at the end. */
static const uint64_t stored[] = {0, 5, SIM_BLOCK + 3, MIDDLE, MIDDLE + 1, SIM_GIGANTIC - 1};

#define STORED (sizeof(stored) / sizeof(stored[0]))

static int make(uint64_t index, uint64_t npages, uint64_t attributes)
{
	struct quire_gmem_conversion conversion = {
	    .offset_bytes = PAGES(index), .size_bytes = PAGES(npages), .attributes = attributes};

	return quire_gmem_set_attributes(gmem, &conversion);
}

static void fill(void)
{
	for (uint64_t i = 0; i < STORED; i++)
		store(GFN + stored[i], (uint8_t)(i + 1));
}

static void begin(uint64_t flags)
{
	machine.in_place = 1;
	machine.host.pool[1] = 1;
	gmem_begin(QUIRE_VM_SW_PROTECTED, FLAGS | flags, GFN, SIM_GIGANTIC);
	fill();
	leaves_are(1, 0, 0);
}

static void end(void)
{
	gmem_end();
	assert_int_equal(machine.host.pool_reserved[1], 0);
	machine.in_place = 0;
	machine.host.pool[1] = 0;
}

static void holds_what_was_stored(void)
{
	for (uint64_t i = 0; i < STORED; i++)
		assert_int_equal(load(GFN + stored[i]), i + 1);
}

/* One page turns shared and back: all of the others are small meanwhile. */
static void test_page(void **state)
{
	(void)state;
	begin(QUIRE_GMEM_MMAP);
	assert_int_equal(make(MIDDLE, 1, 0), 0);
	leaves_are(0, 0, 0);
	assert_int_equal(sim_store_view(quire_gmem_store(gmem), MIDDLE), SIM_VIEW_SHOWN);
	holds_what_was_stored();
	leaves_are(0, 0, STORED);
	/* Nothing was stored there: a small page is made at the first touch, of zeros. */
	assert_int_equal(load(GFN + SIM_BLOCK + 4), 0);
	store(GFN + SIM_BLOCK + 4, 40);
	assert_int_equal(make(MIDDLE, 1, PRIVATE), 0);
	assert_int_equal(sim_store_view(quire_gmem_store(gmem), MIDDLE), SIM_VIEW_HIDDEN);
	leaves_are(0, 0, 0);
	holds_what_was_stored();
	assert_int_equal(load(GFN + SIM_BLOCK + 4), 40);
	leaves_are(1, 0, 0);
	end();
}

/* All of it, and back in two halves: it is huge with the last. */
static void test_halves(void **state)
{
	(void)state;
	begin(QUIRE_GMEM_MMAP);
	assert_int_equal(make(0, SIM_GIGANTIC, 0), 0);
	holds_what_was_stored();
	assert_int_equal(make(0, MIDDLE, PRIVATE), 0);
	assert_int_equal(load(GFN), 1);
	assert_int_equal(level_at(GFN), QUIRE_LEVEL_4K);
	punch(5, 1);
	assert_int_equal(load(GFN + 5), 0);
	store(GFN + 5, 2);
	assert_int_equal(make(MIDDLE, SIM_GIGANTIC - MIDDLE, PRIVATE), 0);
	holds_what_was_stored();
	leaves_are(1, 0, 0);
	end();
}

/* Where no client may map it, only the guest's mapping is split. */
static void test_unmapped(void **state)
{
	uint32_t frame;

	(void)state;
	begin(0);
	frame = sim_store_frame(quire_gmem_store(gmem), MIDDLE);
	assert_int_equal(make(MIDDLE, 1, 0), 0);
	holds_what_was_stored();
	leaves_are(0, 0, STORED);
	assert_int_equal(sim_store_frame(quire_gmem_store(gmem), MIDDLE), frame);
	assert_int_equal(make(MIDDLE, 1, PRIVATE), 0);
	holds_what_was_stored();
	leaves_are(1, 0, 0);
	end();
}

/* Each allocation fails in turn: the conversion is refused, and has changed nothing. */
static void test_no_memory(void **state)
{
	uint64_t refused = 0;
	int error = -ENOMEM;

	(void)state;
	begin(QUIRE_GMEM_MMAP);
	for (uint64_t nth = 1; error; nth++) {
		machine.host.fail_at = machine.host.allocations + nth;
		error = make(MIDDLE, 1, 0);
		machine.host.fail_at = 0;
		if (error) {
			assert_int_equal(error, -ENOMEM);
			refused++;
		}
		holds_what_was_stored();
		leaves_are(error ? 1 : 0, 0, error ? 0 : STORED);
	}
	/* The map's, the small pages, the client's view. */
	assert_true(refused >= 3);
	/* A reunion that fails is none: all stays small, and it can be had later. */
	machine.host.fail_at = machine.host.allocations + refused;
	assert_int_equal(make(MIDDLE, 1, PRIVATE), 0);
	machine.host.fail_at = 0;
	holds_what_was_stored();
	leaves_are(0, 0, STORED);
	assert_int_equal(make(MIDDLE, 1, 0), 0);
	assert_int_equal(make(MIDDLE, 1, PRIVATE), 0);
	holds_what_was_stored();
	leaves_are(1, 0, 0);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_page),
	    cmocka_unit_test(test_halves),
	    cmocka_unit_test(test_unmapped),
	    cmocka_unit_test(test_no_memory),
	};

	return run_formats_kinds(tests, sizeof(tests) / sizeof(tests[0]), 1);
}
