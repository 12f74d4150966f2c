/*
 * Pages of a file alone, without a VM: what becomes one unit, and what each step asks of the host
 * and of the hardware.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/gmem/block.h"
#include "tests/unit/fake_host.h"

#define BLOCK ((u64)GMEM_BLOCK_PAGES)
#define GIB GMEM_GIGANTIC_PAGES
#define FRAMES (UINT64_C(1) << 30)
#define USABLE ((u32)(GMEM_PAGE_EXISTS | GMEM_PAGE_UP_TO_DATE))

/* A range of pages that the host or the hardware heard of. */
struct heard {
	u64 first, npages;
};

/* Frames are FRAMES + index, moved by @shift; @order is the largest that the host gives. */
static struct {
	unsigned int order;
	u64 shift;
	u32 gets;
	struct heard zeroed[8], prepared[1024];
	u32 zeros, prepares;
	u32 lock;  /* of the page's, that was held at the last zeroing */
	int error; /* of the next step at page @error_at */
	u64 error_at;
	s64 filled;
} host;

static struct gmem_pages pages;
static struct quire_host_ops ops;

static int get(void *ctx, void *store, uint64_t index, unsigned int *order, pfn_t *pfn)
{
	(void)ctx;
	(void)store;
	host.gets++;
	if (*order > host.order)
		*order = host.order;
	pfn->v = FRAMES + host.shift + index;
	return 0;
}

static int error_of(u64 first, u64 npages)
{
	return host.error_at - first < npages ? host.error : 0;
}

static u32 lock_held(void)
{
	u32 held = UINT32_MAX;

	for (u32 i = 0; i < GMEM_PAGE_LOCKS; i++)
		if (lock_is_held(&pages.locks[i].mutex, LOCK_EXCLUSIVE))
			held = i;
	return held;
}

static int zero(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	if (host.zeros < 8)
		host.zeroed[host.zeros] = (struct heard){index, npages};
	host.zeros++;
	host.lock = lock_held();
	return error_of(index, npages);
}

static void punch(void *ctx, void *store, uint64_t index, uint64_t npages)
{
	(void)ctx;
	(void)store;
	(void)index;
	(void)npages;
}

static int reshape(void *ctx, void *store, uint64_t index, int whole)
{
	(void)ctx;
	(void)store;
	host.shift += 3;
	host.order = whole ? QUIRE_TABLE_BITS : 0;
	return error_of(index, BLOCK);
}

/* A file of @npages; of each unit the host is asked for 2^@max_order pages. */
static void begin(u64 npages, unsigned int max_order)
{
	fake_reset();
	ops = fake_ops;
	ops.store_get = get;
	ops.store_zero = zero;
	ops.store_punch = punch;
	ops.store_reshape = reshape;
	memset(&host, 0, sizeof(host));
	host.order = max_order;
	memset(&pages, 0, sizeof(pages));
	gmem_pages_init(&pages, &ops, NULL, npages);
	pages.max_order = max_order;
}

static void end(void)
{
	gmem_pages_destroy(&pages);
	assert_int_equal(fake.live_allocs, 0);
	assert_int_equal(fake_reports, 0);
}

static struct gmem_page page_at(u64 index)
{
	struct gmem_page page;

	gmem_page_read(&pages, index, &page);
	return page;
}

static void use(u64 index)
{
	struct gmem_page page;

	assert_int_equal(gmem_page_use(&pages, index, NULL, &page), 0);
	assert_int_equal(page.pfn.v, FRAMES + host.shift + index);
	assert_int_equal(page.state & USABLE, USABLE);
}

static void orders_are(u64 index, unsigned int order, unsigned int of_next_block)
{
	assert_int_equal(page_at(index).order, order);
	assert_int_equal(page_at(index / BLOCK * BLOCK).order, order);
	assert_int_equal(page_at(index + BLOCK).order, of_next_block);
}

static void test_gigantic(void **state)
{
	(void)state;
	begin(2 * GIB + 700, GMEM_GIGANTIC_ORDER);
	use(GIB + 1000);
	assert_int_equal(host.gets, 1);
	for (u64 at = GIB; at < 2 * GIB; at += BLOCK - 1) {
		assert_int_equal(page_at(at).order, GMEM_GIGANTIC_ORDER);
		assert_int_equal(page_at(at).pfn.v, FRAMES + at);
	}
	assert_int_equal(page_at(GIB - 1).state, 0);
	assert_int_equal(page_at(2 * GIB).state, 0);
	/* Nor is there room for a page beside the gigabyte. */
	assert_null(gmem_block_find(&pages, GIB / BLOCK - 1));
	assert_null(gmem_block_find(&pages, 2 * GIB / BLOCK));
	/* All is there; one block was zeroed. */
	assert_true(gmem_unit_has(&pages, GIB, GMEM_GIGANTIC_ORDER, GMEM_PAGE_EXISTS));
	assert_false(gmem_unit_has(&pages, GIB, GMEM_GIGANTIC_ORDER, USABLE));
	assert_true(gmem_unit_any(&pages, GIB, GMEM_GIGANTIC_ORDER, GMEM_PAGE_UP_TO_DATE));
	assert_int_equal(host.zeros, 1);
	assert_int_equal(host.zeroed[0].first, GIB + BLOCK);
	assert_int_equal(host.zeroed[0].npages, BLOCK);
	/* The first block is the last. */
	host.zeros = 0;
	for (u64 at = GIB + BLOCK; at < 2 * GIB; at += BLOCK)
		use(at);
	assert_false(gmem_unit_has(&pages, GIB, GMEM_GIGANTIC_ORDER, USABLE));
	use(GIB);
	assert_int_equal(host.zeros, BLOCK - 1);
	assert_int_equal(host.gets, 1);
	assert_true(gmem_unit_has(&pages, GIB, GMEM_GIGANTIC_ORDER, USABLE));
	/* What is left of the file are a block and single pages. */
	use(2 * GIB + 5);
	use(2 * GIB + BLOCK + 5);
	orders_are(2 * GIB + 5, QUIRE_TABLE_BITS, 0);
	/* A lost page: its block is none any more, and the gigabyte is blocks. */
	gmem_page_poison(&pages, GIB + BLOCK + 7);
	orders_are(GIB + BLOCK + 8, 0, QUIRE_TABLE_BITS);
	orders_are(GIB, QUIRE_TABLE_BITS, 0);
	assert_false(gmem_unit_has(&pages, GIB, GMEM_GIGANTIC_ORDER, GMEM_PAGE_EXISTS));
	end();
}

/* Block by block: the last one makes the gigabyte whole, where the frames are one aligned row. */
static void test_joined(void **state)
{
	static const struct {
		unsigned int max_order;
		u64 shift, shift_last;
		unsigned int joined;
	} rows[] = {
	    {GMEM_GIGANTIC_ORDER, 0, 0, GMEM_GIGANTIC_ORDER},
	    {GMEM_GIGANTIC_ORDER, GIB, GIB, GMEM_GIGANTIC_ORDER},
	    {GMEM_GIGANTIC_ORDER, BLOCK, BLOCK, QUIRE_TABLE_BITS},
	    {GMEM_GIGANTIC_ORDER, 0, BLOCK, QUIRE_TABLE_BITS},
	    {QUIRE_TABLE_BITS, 0, 0, QUIRE_TABLE_BITS},
	};

	(void)state;
	for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		begin(GIB, rows[i].max_order);
		host.order = QUIRE_TABLE_BITS;
		host.shift = rows[i].shift;
		for (u64 at = 0; at < GIB; at += BLOCK) {
			orders_are(3, at ? QUIRE_TABLE_BITS : 0, at > BLOCK ? QUIRE_TABLE_BITS : 0);
			if (at + BLOCK == GIB)
				host.shift = rows[i].shift_last;
			use(at + 511);
		}
		orders_are(3, rows[i].joined, rows[i].joined);
		assert_int_equal(
		    gmem_unit_has(&pages, GIB - 1, GMEM_GIGANTIC_ORDER, GMEM_PAGE_EXISTS),
		    rows[i].joined == GMEM_GIGANTIC_ORDER);
		end();
	}
}

/* Each allocation of the first use fails once: the page is refused or there, and never half. */
static void test_gigantic_without_memory(void **state)
{
	struct gmem_page page = {0};
	u64 fails = 0;

	(void)state;
	begin(GIB, GMEM_GIGANTIC_ORDER);
	do {
		int error;

		gmem_pages_punch(&pages, 0, GIB, NULL);
		fake_fail_in(++fails);
		error = gmem_page_use(&pages, 1000, NULL, &page);
		fake_fail_in(0);
		assert_true(error == 0 || (error == -ENOMEM && fails < 8));
		assert_int_equal(page_at(1000).state & USABLE, error ? 0 : USABLE);
		assert_int_equal(page_at(0).state & GMEM_PAGE_SCATTERED, 0);
	} while (page.order != GMEM_GIGANTIC_ORDER);
	assert_true(fails > 3);
	end();
}

/* The hardware's side of a preparation. */
static int make_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	assert_ptr_equal(ctx, &host);
	assert_int_equal(pfn.v, FRAMES + host.shift + index);
	assert_in_range(host.prepares, 0, 1023);
	host.prepared[host.prepares++] = (struct heard){index, UINT64_C(1) << order};
	return error_of(index, UINT64_C(1) << order);
}

static int make_shared(void *ctx, u64 index, pfn_t pfn)
{
	return make_private(ctx, index, pfn, 0);
}

/* One page may be private no more. */
static int is_private(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	assert_ptr_equal(ctx, &host);
	assert_int_equal(pfn.v, FRAMES + host.shift + index);
	assert_true(order == 0 || (order == QUIRE_TABLE_BITS && index % BLOCK == 0));
	return !host.error_at || host.error_at - index >= UINT64_C(1) << order;
}

static int prepare(u64 index, unsigned int order, bool shared)
{
	const struct gmem_prepare how = {
	    .make_private = shared ? NULL : make_private,
	    .is_private = is_private,
	    .make_shared = make_shared,
	    .ctx = &host,
	    .order = order,
	};
	struct gmem_page page;

	host.prepares = host.zeros = 0;
	return gmem_page_use(&pages, index, &how, &page);
}

static void prepared(u32 nth, u64 first, u64 npages)
{
	assert_in_range(nth, 0, host.prepares - 1);
	assert_int_equal(host.prepared[nth].first, first);
	assert_int_equal(host.prepared[nth].npages, npages);
}

/* The hardware hears once of what is private already: a block at once, or what it lacks. */
static void test_prepared(void **state)
{
	(void)state;
	begin(3 * BLOCK, QUIRE_TABLE_BITS);
	assert_int_equal(prepare(BLOCK + 7, QUIRE_TABLE_BITS, false), 0);
	assert_int_equal(host.prepares, 1);
	prepared(0, BLOCK, BLOCK);
	assert_true(gmem_unit_has(&pages, BLOCK, QUIRE_TABLE_BITS, GMEM_PAGE_PREPARED));
	assert_int_equal(prepare(BLOCK + 8, QUIRE_TABLE_BITS, false), 0);
	assert_int_equal(prepare(BLOCK + 8, 0, false), 0);
	assert_int_equal(host.prepares, 0);
	/* One page of it is shared, and private again. */
	assert_int_equal(prepare(BLOCK + 9, 0, true), 0);
	assert_int_equal(host.prepares, 1);
	prepared(0, BLOCK + 9, 1);
	assert_int_equal(prepare(BLOCK + 9, 0, true), 0);
	assert_int_equal(host.prepares, 0);
	assert_int_equal(prepare(BLOCK + 1, QUIRE_TABLE_BITS, false), 0);
	assert_int_equal(host.prepares, 1);
	prepared(0, BLOCK + 9, 1);
	/* The hardware gave up one page: it hears of that one alone. */
	host.error_at = BLOCK + 20;
	assert_int_equal(prepare(BLOCK + 21, 0, false), 0);
	assert_int_equal(host.prepares, 0);
	assert_int_equal(prepare(BLOCK + 21, QUIRE_TABLE_BITS, false), 0);
	assert_int_equal(host.prepares, 1);
	prepared(0, BLOCK + 20, 1);
	/* All of it is shared, once. */
	host.error_at = 0;
	assert_int_equal(prepare(BLOCK + 1, QUIRE_TABLE_BITS, true), 0);
	assert_int_equal(host.prepares, BLOCK);
	prepared(511, BLOCK + 511, 1);
	assert_false(gmem_unit_any(&pages, BLOCK, QUIRE_TABLE_BITS, GMEM_PAGE_PREPARED));
	/* A page by itself is prepared by itself. */
	assert_int_equal(prepare(BLOCK + 5, 0, false), 0);
	assert_int_equal(host.prepares, 1);
	prepared(0, BLOCK + 5, 1);
	assert_true(page_at(BLOCK + 5).state & GMEM_PAGE_PREPARED);
	assert_false(page_at(BLOCK + 6).state & GMEM_PAGE_PREPARED);
	end();
}

/* The pages of a block have one lock where the host may make all of them at once, else their own.
 */
static void test_locks(void **state)
{
	(void)state;
	for (unsigned int order = 0; order <= QUIRE_TABLE_BITS; order += QUIRE_TABLE_BITS) {
		begin(3 * BLOCK, order);
		host.order = 0;
		for (u64 at = BLOCK; at < 3 * BLOCK; at += 7) {
			use(at);
			assert_int_equal(host.lock, (order ? at / BLOCK : at) % GMEM_PAGE_LOCKS);
		}
		end();
	}
}

/* What the hardware refuses is not done, what came before it is; the next try goes on there. */
static void test_refused(void **state)
{
	(void)state;
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	host.error = -EIO;
	host.error_at = 9;
	assert_int_equal(prepare(5, QUIRE_TABLE_BITS, false), -EIO);
	assert_false(gmem_unit_any(&pages, 0, QUIRE_TABLE_BITS, GMEM_PAGE_PREPARED));
	/* Nor is a page zeroed that the host could not zero. */
	assert_int_equal(page_at(9).state & USABLE, GMEM_PAGE_EXISTS);
	host.error = 0;
	host.error_at = 0;
	assert_int_equal(prepare(5, QUIRE_TABLE_BITS, false), 0);
	host.error = -EIO;
	host.error_at = 9;
	assert_int_equal(prepare(5, QUIRE_TABLE_BITS, true), -EIO);
	assert_int_equal(host.prepares, 10);
	for (u64 at = 0; at < BLOCK; at++)
		assert_int_equal(page_at(at).state & GMEM_PAGE_PREPARED,
				 at < 9 ? 0 : GMEM_PAGE_PREPARED);
	/* Of a block that is private in part, those that are not hear, one by one. */
	host.error_at = 4;
	assert_int_equal(prepare(5, QUIRE_TABLE_BITS, false), -EIO);
	assert_int_equal(host.prepares, 5);
	for (u64 at = 0; at < 9; at++)
		assert_int_equal(page_at(at).state & GMEM_PAGE_PREPARED,
				 at < 4 ? GMEM_PAGE_PREPARED : 0);
	end();
}

/* Only runs of pages that were never used are zeroed. */
static void test_zeroed(void **state)
{
	const struct gmem_frames none = {0};
	struct gmem_page page;

	(void)state;
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	assert_int_equal(gmem_page_create(&pages, 3, &page), 0);
	assert_int_equal(host.zeros, 0);
	use(3);
	assert_int_equal(host.zeros, 1);
	/* A part of a huge page is new after a punch. */
	pages.huge_order = QUIRE_TABLE_BITS;
	gmem_pages_punch(&pages, 5, 2, NULL);
	gmem_pages_punch(&pages, 9, 1, NULL);
	gmem_pages_punch(&pages, 508, 4, NULL);
	gmem_pages_make_shared(&pages, 0, BLOCK, &none);
	host.zeros = 0;
	use(3);
	assert_int_equal(host.zeros, 3);
	for (u32 i = 0; i < 3; i++) {
		static const struct heard runs[] = {{5, 2}, {9, 1}, {508, 4}};

		assert_int_equal(host.zeroed[i].first, runs[i].first);
		assert_int_equal(host.zeroed[i].npages, runs[i].npages);
	}
	use(3);
	assert_int_equal(host.zeros, 3);
	end();
}

/* Which of a file's pages are new, and which have no frame, after a punch of [@first, @stop). */
static void punched(u64 first, u64 stop)
{
	for (u64 at = 0; at < 3 * BLOCK; at++)
		use(at);
	gmem_pages_punch(&pages, first, stop - first, NULL);
	for (u64 at = 0; at < 3 * BLOCK; at++) {
		u64 block = at / BLOCK * BLOCK;
		bool inside = at >= first && at < stop;
		bool whole = block >= first && block + BLOCK <= stop;

		assert_int_equal(page_at(at).state & USABLE, whole    ? 0
							     : inside ? GMEM_PAGE_EXISTS
								      : USABLE);
	}
}

static void test_huge_page_in_part(void **state)
{
	static const struct heard ranges[] = {
	    {0, 1},	{5, 507},   {5, 508},	{5, 1019}, {0, 512},  {0, 513}, {511, 2},
	    {511, 513}, {511, 514}, {512, 512}, {1, 1535}, {0, 1535}, {600, 7}, {0, 1536}};

	(void)state;
	begin(3 * BLOCK, QUIRE_TABLE_BITS);
	pages.huge_order = QUIRE_TABLE_BITS;
	for (u32 i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
		punched(ranges[i].first, ranges[i].first + ranges[i].npages);
	end();
}

/* Lost before it had memory: a punch of a part of its huge page leaves it so. */
static void test_huge_page_lost(void **state)
{
	static const u64 lost[] = {0, 511, 512, 1023};

	(void)state;
	for (u32 i = 0; i < 4; i++) {
		u64 block = lost[i] / BLOCK * BLOCK;

		begin(2 * BLOCK, QUIRE_TABLE_BITS);
		pages.huge_order = QUIRE_TABLE_BITS;
		fake_fail_in(1);
		gmem_page_poison(&pages, lost[i]);
		fake_fail_in(0);
		use(block ? 0 : BLOCK);
		gmem_pages_punch(&pages, lost[i], 1, NULL);
		use(block + 7);
		assert_int_equal(page_at(lost[i]).state & GMEM_PAGE_POISONED, GMEM_PAGE_POISONED);
		for (u64 at = 0; at < 2 * BLOCK; at++)
			if (at != lost[i])
				assert_int_equal(page_at(at).state & GMEM_PAGE_POISONED, 0);
		gmem_pages_punch(&pages, block, BLOCK, NULL);
		use(lost[i]);
		end();
		/* All of it goes before it has a block. */
		begin(2 * BLOCK, QUIRE_TABLE_BITS);
		pages.huge_order = QUIRE_TABLE_BITS;
		fake_fail_in(1);
		gmem_page_poison(&pages, lost[i]);
		fake_fail_in(0);
		gmem_pages_punch(&pages, block, BLOCK, NULL);
		use(lost[i]);
		assert_int_equal(page_at(lost[i]).state & GMEM_PAGE_POISONED, 0);
		end();
	}
}

/* What is lost past the end of the file is no page of it, and costs nothing. */
static void test_lost_past_the_end(void **state)
{
	u64 live;

	(void)state;
	begin(700, 0);
	use(3);
	live = fake.live_allocs;
	gmem_page_poison(&pages, 700);
	gmem_page_poison(&pages, UINT64_MAX);
	assert_int_equal(fake.live_allocs, live);
	assert_int_equal(page_at(3).state & GMEM_PAGE_POISONED, 0);
	gmem_page_poison(&pages, 699);
	assert_int_equal(page_at(699).state, GMEM_PAGE_POISONED);
	end();
}

static void use_and_fail(void)
{
	use(3);
	fake_fail_in(1);
}

/* Lost while another thread makes the block, without memory for the one that tells of it. */
static void test_lost_meanwhile(void **state)
{
	(void)state;
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	fake.meanwhile = use_and_fail;
	gmem_page_poison(&pages, 7);
	fake_fail_in(0);
	assert_null(fake.meanwhile);
	assert_true(page_at(7).state & GMEM_PAGE_POISONED);
	orders_are(3, 0, 0);
	end();
	/* Noted, and not yet said of the block: the next look for the block hears it. */
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	use(3);
	pages.lost[5] = 512;
	pages.any_lost = 1;
	use(3);
	assert_true(page_at(511).state & GMEM_PAGE_POISONED);
	orders_are(3, 0, 0);
	assert_int_equal(pages.lost[5], 0);
	end();
}

/* A page is marked as lost, and its block not yet as no unit: no gigabyte is made of it. */
static void test_lost_while_joined(void **state)
{
	(void)state;
	begin(GIB, GMEM_GIGANTIC_ORDER);
	use(7);
	orders_are(7, GMEM_GIGANTIC_ORDER, GMEM_GIGANTIC_ORDER);
	gmem_block_set(gmem_block_find(&pages, 3), 5, GMEM_PAGE_POISONED);
	rwlock_read_lock(&pages.punch_lock);
	gmem_gigantic_join(&pages, 7);
	rwlock_read_unlock(&pages.punch_lock);
	orders_are(7, QUIRE_TABLE_BITS, QUIRE_TABLE_BITS);
	end();
}

/* Any and all, for a page, its block and its gigabyte. */
static void test_any_and_all(void **state)
{
	static const u64 used[] = {0, 511, 512, 1000, GIB - 1};
	static const u64 looked_at[] = {0, 1, 511, 512, 513, 1000, 1023, 1024, GIB - 512, GIB - 1};

	(void)state;
	for (u32 i = 0; i < sizeof(used) / sizeof(used[0]); i++) {
		begin(GIB, 0);
		use(used[i]);
		for (u32 j = 0; j < sizeof(looked_at) / sizeof(looked_at[0]); j++) {
			u64 at = looked_at[j];
			bool same = at == used[i], beside = at / BLOCK == used[i] / BLOCK;

			assert_int_equal(gmem_unit_any(&pages, at, 0, USABLE), same);
			assert_int_equal(gmem_unit_has(&pages, at, 0, USABLE), same);
			assert_int_equal(gmem_unit_any(&pages, at, QUIRE_TABLE_BITS, USABLE),
					 beside);
			assert_false(gmem_unit_has(&pages, at, QUIRE_TABLE_BITS, USABLE));
			assert_true(gmem_unit_any(&pages, at, GMEM_GIGANTIC_ORDER, USABLE));
			assert_false(
			    gmem_unit_any(&pages, at, GMEM_GIGANTIC_ORDER, GMEM_PAGE_POISONED));
		}
		end();
	}
}

static u64 told;

static void tell(void *ctx, pfn_t pfn, u64 npages)
{
	(void)ctx;
	assert_int_equal(pfn.v, FRAMES + host.shift + told);
	told += npages;
}

/* Small pages at other frames, and one huge page again: the frames are one row each time. */
static void test_reshaped(void **state)
{
	const struct gmem_frames frames = {.tell = tell};
	u64 live;

	(void)state;
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	pages.huge_order = QUIRE_TABLE_BITS;
	assert_int_equal(prepare(5, QUIRE_TABLE_BITS, false), 0);
	live = fake.live_allocs;
	for (int whole = 0; whole < 2; whole++) {
		told = whole ? BLOCK : 0;
		assert_int_equal(gmem_pages_reshape(&pages, 0, whole, &frames), 0);
		assert_int_equal(told, BLOCK);
		for (u64 at = 0; at < BLOCK; at++)
			assert_int_equal(page_at(at).state, GMEM_PAGE_UP_TO_DATE);
		assert_int_equal(page_at(5).order, 0);
		use(5);
		assert_int_equal(page_at(5).order, whole ? QUIRE_TABLE_BITS : 0);
		for (u64 at = 0; at < BLOCK; at++)
			use(at);
		assert_false(gmem_unit_any(&pages, 0, QUIRE_TABLE_BITS, GMEM_PAGE_SCATTERED));
	}
	/* No list of frames was needed, and nothing was zeroed that was in use. */
	assert_int_equal(fake.live_allocs, live);
	assert_int_equal(host.zeros, 1);
	/* The host refuses: the pages stay where they are. */
	host.error = -ENOMEM;
	assert_int_equal(gmem_pages_reshape(&pages, 0, 0, NULL), -ENOMEM);
	assert_int_equal(page_at(5).state, USABLE);
	assert_int_equal(page_at(5).order, QUIRE_TABLE_BITS);
	/* A host that cannot has nothing to do. */
	ops.store_reshape = NULL;
	assert_int_equal(gmem_pages_reshape(&pages, 0, 0, NULL), 0);
	assert_int_equal(page_at(5).state, USABLE);
	end();
}

static s64 fill(void *ctx, u64 index, pfn_t pfn, unsigned int order)
{
	assert_ptr_equal(ctx, &host);
	assert_int_equal(pfn.v, FRAMES + index);
	assert_int_equal(order, host.order);
	return host.filled;
}

/* How much of a unit is filled, for what the filler answers: the rest is given back. */
static void test_filled(void **state)
{
	static const struct {
		unsigned int order;
		s64 filled, answer;
		u64 done;
	} rows[] = {
	    {0, 1, 1, 1},	{0, 2, 1, 1},	    {0, 0, 0, 0},	{0, -1, -1, 0},
	    {0, -EIO, -EIO, 0}, {9, 512, 512, 512}, {9, 513, 512, 512}, {9, 511, 511, 511},
	    {9, 1, 1, 1},	{9, 0, 0, 0},	    {9, -EIO, -EIO, 0},
	};
	const struct gmem_prepare how = {
	    .make_private = make_private, .make_shared = make_shared, .ctx = &host};

	(void)state;
	for (u32 i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
		const unsigned int order = rows[i / 2].order;
		const struct gmem_filler filler = {fill, &host, QUIRE_TABLE_BITS};
		const u64 npages = UINT64_C(1) << order, done = rows[i / 2].done;
		const bool private = i % 2;
		u32 bits = GMEM_PAGE_UP_TO_DATE | (private ? GMEM_PAGE_PREPARED : 0);

		begin(2 * BLOCK, order);
		host.filled = rows[i / 2].filled;
		assert_int_equal(gmem_page_fill(&pages, BLOCK, private ? &how : NULL, &filler),
				 rows[i / 2].answer);
		assert_int_equal(host.prepares, private ? 1 + npages - done : 0);
		if (private)
			prepared(0, BLOCK, npages);
		for (u64 at = 0; private && at < npages - done; at++)
			prepared(1 + (u32)at, BLOCK + done + at, 1);
		for (u64 at = 0; at < npages; at++)
			assert_int_equal(page_at(BLOCK + at).state,
					 GMEM_PAGE_EXISTS | (at < done ? bits : 0));
		end();
	}
}

/* A page inside a unit is filled by itself. */
static void test_filled_inside_a_unit(void **state)
{
	const struct gmem_filler filler = {fill, &host, QUIRE_TABLE_BITS};

	(void)state;
	begin(2 * BLOCK, QUIRE_TABLE_BITS);
	use(BLOCK);
	/* What fill() is to hear. */
	host.order = 0;
	host.filled = 1;
	assert_int_equal(gmem_page_fill(&pages, BLOCK + 7, NULL, &filler), 1);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_gigantic),
	    cmocka_unit_test(test_joined),
	    cmocka_unit_test(test_gigantic_without_memory),
	    cmocka_unit_test(test_prepared),
	    cmocka_unit_test(test_locks),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_zeroed),
	    cmocka_unit_test(test_huge_page_in_part),
	    cmocka_unit_test(test_huge_page_lost),
	    cmocka_unit_test(test_lost_past_the_end),
	    cmocka_unit_test(test_lost_meanwhile),
	    cmocka_unit_test(test_lost_while_joined),
	    cmocka_unit_test(test_any_and_all),
	    cmocka_unit_test(test_reshaped),
	    cmocka_unit_test(test_filled),
	    cmocka_unit_test(test_filled_inside_a_unit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
