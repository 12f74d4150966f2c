/* The pages of one inode: a host that gives less than it was asked for, or pages elsewhere. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "src/gmem/block.h"
#include "tests/unit/fake_host.h"

#define BLOCK(n) ((u64)(n)*GMEM_BLOCK_PAGES)
/* Block n of the file is at this frame, but for the one that is elsewhere. */
#define FRAME(n) (UINT64_C(1) << 30 | BLOCK(n))
#define ELSEWHERE (UINT64_C(1) << 31)
#define NOWHERE UINT64_MAX

static struct quire_host_ops ops;
static struct gmem_pages pages;
static unsigned int refused_order; /* store_get() has no memory when it is asked for that much */
static u64 block_elsewhere;
static u32 made_private, private_fails; /* the call of this number fails; 0: none */

/* Whole blocks, never more. */
static int store_get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	u64 block = index / GMEM_BLOCK_PAGES;

	(void)ctx;
	(void)store;
	if (refused_order && *order == refused_order)
		return -ENOMEM;
	*order = *order < GMEM_BLOCK_ORDER ? 0 : GMEM_BLOCK_ORDER;
	pfn->v = (block == block_elsewhere ? ELSEWHERE : FRAME(block)) + index % GMEM_BLOCK_PAGES;
	return 0;
}

static int store_zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	assert_true(index < pages.npages && npages);
	return 0;
}

static int make_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	(void)ctx;
	(void)order;
	assert_int_equal(pfn.v, FRAME(0) + index);
	return ++made_private == private_fails ? -EBUSY : 0;
}

static void begin(u64 npages, unsigned int max_order)
{
	fake_reset();
	ops = fake_ops;
	ops.store_get = store_get;
	ops.store_zero = store_zero;
	memset(&pages, 0, sizeof(pages));
	gmem_pages_init(&pages, &ops, NULL, npages);
	pages.max_order = max_order;
	refused_order = 0;
	block_elsewhere = NOWHERE;
	made_private = private_fails = 0;
}

static void end(void)
{
	gmem_pages_destroy(&pages);
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
}

static struct gmem_page page_of(u64 index)
{
	struct gmem_page page;

	gmem_page_read(&pages, index, &page);
	return page;
}

static void create(u64 index)
{
	struct gmem_page page;

	assert_int_equal(gmem_page_create(&pages, index, &page), 0);
	assert_int_equal(page.state, GMEM_PAGE_EXISTS);
}

static void create_second(void)
{
	create(1);
}

/* Two threads make one block in the same instant: one of the two is kept, with what is in it. */
static void test_two_make_a_block(void **state)
{
	(void)state;
	begin(GMEM_BLOCK_PAGES, 0);
	fake.meanwhile = create_second;
	create(0);
	assert_int_equal(fake.live_allocs, 1);
	assert_int_equal(page_of(1).state, GMEM_PAGE_EXISTS);
	assert_int_equal(page_of(1).pfn.v, FRAME(0) + 1);
	end();
}

static void test_no_memory_for_a_block(void **state)
{
	struct gmem_page page;

	(void)state;
	begin(GMEM_BLOCK_PAGES, 0);
	fake_fail_in(1);
	assert_int_equal(gmem_page_create(&pages, 0, &page), -ENOMEM);
	assert_int_equal(page_of(0).state, 0);
	create(0);
	end();
}

/* The host has no memory for 1 GiB: the page comes with less. */
static void test_gigantic_is_refused(void **state)
{
	(void)state;
	begin(GMEM_GIGANTIC_PAGES, GMEM_GIGANTIC_ORDER);
	refused_order = GMEM_GIGANTIC_ORDER;
	create(BLOCK(3) + 5);
	assert_int_equal(page_of(BLOCK(3) + 6).order, GMEM_BLOCK_ORDER);
	assert_int_equal(page_of(BLOCK(3) + 6).pfn.v, FRAME(3) + 6);
	assert_int_equal(page_of(BLOCK(2)).state, 0);
	end();
}

/* 512 blocks are one unit where their frames follow each other, and not with one elsewhere. */
static void test_block_elsewhere(void **state)
{
	(void)state;
	for (u64 elsewhere = 7; elsewhere <= GMEM_GIGANTIC_BLOCKS; elsewhere += 505) {
		bool is_unit = elsewhere >= GMEM_GIGANTIC_BLOCKS;

		begin(GMEM_GIGANTIC_PAGES, GMEM_GIGANTIC_ORDER);
		block_elsewhere = elsewhere;
		for (u64 block = 0; block < GMEM_GIGANTIC_BLOCKS; block++)
			create(BLOCK(block) + 9);
		assert_int_equal(page_of(BLOCK(7)).pfn.v, is_unit ? FRAME(7) : ELSEWHERE);
		assert_int_equal(page_of(BLOCK(511)).order,
				 is_unit ? GMEM_GIGANTIC_ORDER : GMEM_BLOCK_ORDER);
		end();
	}
}

/* The host's unit goes beyond the end of the file: a page of it is used. */
static void test_unit_beyond_the_end(void **state)
{
	(void)state;
	begin(BLOCK(1) + 10, GMEM_BLOCK_ORDER);
	create(BLOCK(1) + 4);
	assert_int_equal(page_of(BLOCK(1) + 4).order, 0);
	assert_int_equal(page_of(BLOCK(1) + 5).state, 0);
	create(4);
	assert_int_equal(page_of(5).order, GMEM_BLOCK_ORDER);
	end();
}

/* One page of a unit is private already: the others turn so one by one, up to one that fails. */
static void test_private_page_by_page(void **state)
{
	struct gmem_prepare prepare = {.make_private = make_private};
	struct gmem_page page;

	(void)state;
	begin(BLOCK(1), GMEM_BLOCK_ORDER);
	assert_int_equal(gmem_page_use(&pages, 1, &prepare, &page), 0);
	assert_int_equal(made_private, 1);
	prepare.order = GMEM_BLOCK_ORDER;
	private_fails = 4;
	assert_int_equal(gmem_page_use(&pages, 5, &prepare, &page), -EBUSY);
	assert_int_equal(made_private, 4);
	for (u64 index = 0; index < 6; index++)
		assert_int_equal(!!(page_of(index).state & GMEM_PAGE_PREPARED), index < 3);
	assert_int_equal(gmem_page_use(&pages, 5, &prepare, &page), 0);
	assert_int_equal(made_private, GMEM_BLOCK_PAGES + 1);
	assert_true(gmem_unit_has(&pages, 5, GMEM_BLOCK_ORDER, GMEM_PAGE_PREPARED));
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_two_make_a_block),
	    cmocka_unit_test(test_no_memory_for_a_block),
	    cmocka_unit_test(test_gigantic_is_refused),
	    cmocka_unit_test(test_block_elsewhere),
	    cmocka_unit_test(test_unit_beyond_the_end),
	    cmocka_unit_test(test_private_page_by_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
