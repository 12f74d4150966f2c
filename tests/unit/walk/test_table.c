/* The arena of tables by itself: how many it takes and keeps, in which order, and when it grows. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "src/walk/range.h"
#include "src/walk/table.h"
#include "tests/unit/fake_host.h"

/* A chunk of 2 MiB whose first 32 KiB are descriptors. */
#define PER_CHUNK 504u
#define FIRST 8u
#define BATCH 16u /* what a cache takes beside what it has to have */
#define ROOT 4u	  /* tables of the root of RISC-V's formats */

static struct quire_host_ops host;
static struct entry_format format;
static struct arena arena;
static struct table_cache cache;
static struct table *chunks[4];
static uint32_t made, given_back, chunks_max;

static void *chunk_alloc(void *ctx)
{
	assert_ptr_equal(ctx, &host);
	if (made == chunks_max)
		return NULL;
	chunks[made] = fake_ops.chunk_alloc(NULL);
	return chunks[made++];
}

static void chunk_free(void *ctx, void *chunk)
{
	assert_ptr_equal(ctx, &host);
	given_back++;
	fake_ops.chunk_free(NULL, chunk);
}

static void begin(const struct entry_format *of)
{
	fake_reset();
	host = fake_ops;
	host.chunk_alloc = chunk_alloc;
	host.chunk_free = chunk_free;
	format = *of;
	memset(&arena, 0, sizeof(arena));
	memset(&cache, 0, sizeof(cache));
	made = given_back = 0;
	chunks_max = sizeof(chunks) / sizeof(chunks[0]);
	arena_init(&arena, &host, &host, &format);
}

/* Every chunk goes back. */
static void end(void)
{
	table_cache_drain(&cache, &arena);
	assert_null(cache.tables);
	assert_int_equal(cache.count, 0);
	assert_int_equal(arena_used(&arena), 0);
	arena_destroy(&arena);
	assert_int_equal(given_back, made);
	assert_int_equal(fake_reports, 0);
}

static void arena_is(uint64_t used, uint64_t free_count, uint32_t count)
{
	assert_int_equal(arena_used(&arena), used);
	assert_int_equal(arena.free_count, free_count);
	assert_int_equal(arena_taken_bytes(&arena), (uint64_t)count << 21);
	assert_int_equal(made - given_back, count);
}

/* Nothing is taken before it is asked for; then what is asked for and a batch, and no more. */
static void test_refill(void **state)
{
	(void)state;
	begin(&entry_npt);
	arena_is(0, 0, 0);
	assert_int_equal(table_cache_fill(&cache, &arena, 0), 0);
	arena_is(0, 0, 0);
	assert_int_equal(table_cache_fill(&cache, &arena, 3), 0);
	assert_int_equal(cache.count, 3 + BATCH);
	arena_is(3 + BATCH, PER_CHUNK - 3 - BATCH, 1);
	/* It has as many as are asked for now. */
	assert_int_equal(table_cache_fill(&cache, &arena, 3 + BATCH), 0);
	assert_int_equal(cache.count, 3 + BATCH);
	assert_int_equal(table_cache_fill(&cache, &arena, 4 + BATCH), 0);
	assert_int_equal(cache.count, 4 + 2 * BATCH);
	arena_is(4 + 2 * BATCH, PER_CHUNK - 4 - 2 * BATCH, 1);
	end();
}

/* Tables come in rising order of address, so that neighbours of the tables are neighbours. */
static void test_order(void **state)
{
	(void)state;
	begin(&entry_npt);
	assert_int_equal(table_cache_fill(&cache, &arena, 2), 0);
	for (uint32_t i = 2 + BATCH; i-- > 0;) {
		struct table *table = table_cache_take(&cache);

		assert_ptr_equal(table, &chunks[0][FIRST + i]);
		assert_ptr_equal(table_entries(table),
				 (char *)chunks[0] + (FIRST + i) * QUIRE_PAGE_SIZE);
		assert_int_equal(cache.count, i);
		table->next = NULL;
		arena_free_list(&arena, table, 1);
		arena_is(i, PER_CHUNK - i, 1);
	}
	assert_null(table_cache_take(&cache));
	assert_int_equal(cache.count, 0);
	/* The last that came back is the next that goes. */
	assert_ptr_equal(arena.free, &chunks[0][FIRST]);
	end();
}

/* A batch does not make the arena grow: what has to be there does. */
static void test_grows_when_it_must(void **state)
{
	(void)state;
	begin(&entry_npt);
	assert_int_equal(table_cache_refill(&cache, &arena, PER_CHUNK - 1), 0);
	assert_int_equal(cache.count, PER_CHUNK);
	arena_is(PER_CHUNK, 0, 1);
	assert_int_equal(table_cache_refill(&cache, &arena, PER_CHUNK), 0);
	arena_is(PER_CHUNK, 0, 1);
	chunks_max = 1;
	assert_int_equal(table_cache_refill(&cache, &arena, PER_CHUNK + 1), -ENOMEM);
	assert_int_equal(cache.count, PER_CHUNK);
	arena_is(PER_CHUNK, 0, 1);
	chunks_max = 3;
	assert_int_equal(table_cache_refill(&cache, &arena, PER_CHUNK + 1), 0);
	assert_int_equal(cache.count, PER_CHUNK + 1 + BATCH);
	arena_is(PER_CHUNK + 1 + BATCH, PER_CHUNK - 1 - BATCH, 2);
	end();
}

/* Without memory what there was is in the cache, and counted. */
static void test_without_memory(void **state)
{
	struct table_cache other = {0};

	(void)state;
	begin(&entry_npt);
	chunks_max = 0;
	assert_int_equal(table_cache_refill(&cache, &arena, 1), -ENOMEM);
	assert_int_equal(cache.count, 0);
	arena_is(0, 0, 0);
	chunks_max = 1;
	assert_int_equal(table_cache_refill(&other, &arena, PER_CHUNK - BATCH - 5), 0);
	assert_int_equal(table_cache_refill(&cache, &arena, 6), -ENOMEM);
	assert_int_equal(cache.count, 5);
	arena_is(PER_CHUNK, 0, 1);
	table_cache_drain(&cache, &arena);
	arena_is(PER_CHUNK - 5, 5, 1);
	/* Of nothing there is nothing to give back. */
	table_cache_drain(&cache, &arena);
	arena_free_list(&arena, NULL, 0);
	arena_is(PER_CHUNK - 5, 5, 1);
	table_cache_drain(&other, &arena);
	arena_is(0, PER_CHUNK, 1);
	end();
}

/* A table that had another use begins anew, but for what its next owner writes. */
static void test_table_begins_anew(void **state)
{
	struct table *table;

	(void)state;
	begin(&entry_npt);
	assert_int_equal(table_cache_refill(&cache, &arena, 1), 0);
	table = cache.tables;
	table->has_mmio = 1;
	assert_ptr_equal(table_cache_take(&cache), table);
	assert_int_equal(table->has_mmio, 0);
	for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		table_entries(table)[i] = i;
	table_entries(&table[-1])[QUIRE_TABLE_ENTRIES - 1] = 77;
	table_fill(table, 5);
	for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		assert_int_equal(table_entries(table)[i], 5);
	assert_int_equal(table_entries(&table[-1])[QUIRE_TABLE_ENTRIES - 1], 77);
	assert_int_equal(table_entries(&table[1])[0], 0);
	table_cache_put(&cache, table);
	assert_ptr_equal(cache.tables, table);
	assert_int_equal(cache.count, 1 + BATCH);
	end();
}

/* Where the host has the chunk's pages: from page @shift on, but for those from @broken on. */
static uint64_t shift, broken, broken_end, odd_bytes;

static uint64_t table_phys(void *ctx, const uint64_t *table)
{
	uint64_t page =
	    ((uint64_t)(uintptr_t)table - (uint64_t)(uintptr_t)chunks[0]) / QUIRE_PAGE_SIZE;
	/* Every second page of those stands by itself. */
	uint64_t away = page >= broken && page < broken_end && page % 2 ? 4096 : 0;

	(void)ctx;
	return (page + shift + away) * QUIRE_PAGE_SIZE + odd_bytes;
}

static void begin_placed(const struct entry_format *of, uint64_t pages, uint64_t from, uint64_t to)
{
	begin(of);
	shift = pages;
	broken = from;
	broken_end = to;
	odd_bytes = 0;
	format.tables.phys = table_phys;
}

/* Those of the cache are all of the chunk's but a root's, each once. */
static void check_others(const struct table *root)
{
	uint32_t seen[512] = {0};

	assert_int_equal(table_cache_refill(&cache, &arena, PER_CHUNK - ROOT), 0);
	arena_is(PER_CHUNK, 0, 1);
	for (const struct table *table = cache.tables; table; table = table->next) {
		assert_in_range(table - chunks[0], FIRST, 511);
		assert_int_equal(seen[table - chunks[0]]++, 0);
	}
	for (uint32_t i = 0; i < ROOT; i++)
		assert_int_equal(seen[root + i - chunks[0]], 0);
}

/* A root is aligned to its size, and what is before and behind it serves, too. */
static void test_roots(void **state)
{
	static const struct {
		uint64_t shift, broken, broken_end;
		uint32_t page;
	} cases[] = {
	    {0, 0, 0, 8},     {1, 0, 0, 11},	{2, 0, 0, 10},	{3, 0, 0, 9},
	    {0, 8, 508, 508}, {1, 8, 507, 507}, {3, 9, 11, 13}, {0, 11, 12, 12},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct table *root;

		begin_placed(&entry_sv39x4, cases[i].shift, cases[i].broken, cases[i].broken_end);
		assert_int_equal(arena.root_tables, ROOT);
		root = arena_take_root(&arena);
		assert_ptr_equal(root, &chunks[0][cases[i].page]);
		arena_is(ROOT, PER_CHUNK - ROOT, 1);
		check_others(root);
		root->root_index = 1;
		arena_free_root(&arena, root);
		arena_is(PER_CHUNK - ROOT, 0, 1);
		end();
	}
}

/* Where no four pages are in a row there is no root, and the chunk goes back at once. */
static void test_no_root(void **state)
{
	(void)state;
	for (uint64_t pages = 0; pages < ROOT; pages++) {
		begin_placed(&entry_sv39x4, pages, 8, 512);
		assert_null(arena_take_root(&arena));
		assert_int_equal(made, 1);
		arena_is(0, 0, 0);
		end();
	}
	begin(&entry_sv39x4);
	chunks_max = 0;
	assert_null(arena_take_root(&arena));
	arena_is(0, 0, 0);
	end();
}

/* A root that came back is the next root, before the arena grows for another one. */
static void test_root_comes_back(void **state)
{
	struct table *first, *second;

	(void)state;
	begin(&entry_sv39x4);
	first = arena_take_root(&arena);
	second = arena_take_root(&arena);
	assert_ptr_equal(first, &chunks[0][FIRST]);
	assert_ptr_equal(second, &chunks[1][FIRST]);
	arena_is(2 * ROOT, 2 * (PER_CHUNK - ROOT), 2);
	first->root_index = second->root_index = 1;
	arena_free_root(&arena, first);
	arena_is(ROOT, 2 * (PER_CHUNK - ROOT), 2);
	arena_free_root(&arena, second);
	arena_is(0, 2 * (PER_CHUNK - ROOT), 2);
	assert_ptr_equal(arena_take_root(&arena), second);
	assert_ptr_equal(arena_take_root(&arena), first);
	arena_is(2 * ROOT, 2 * (PER_CHUNK - ROOT), 2);
	arena_free_root(&arena, first);
	arena_free_root(&arena, second);
	end();
}

/* What an entry cannot name is no table: neither the chunk's last page nor part of a page. */
static void check_places(const struct entry_format *of, uint64_t frames, uint64_t bytes, bool fits)
{
	begin_placed(of, 3, 0, 0);
	format.frames = frames;
	odd_bytes = bytes;
	assert_int_equal(table_cache_refill(&cache, &arena, 1), fits ? 0 : -ENOMEM);
	assert_int_equal(given_back, !fits);
	end();
	if (of != &entry_sv39x4)
		return;
	begin_placed(of, 4, 0, 0);
	format.frames = frames + 1;
	odd_bytes = bytes;
	if (fits) {
		struct table *root = arena_take_root(&arena);

		assert_ptr_equal(root, &chunks[0][FIRST]);
		root->root_index = 1;
		arena_free_root(&arena, root);
	} else {
		assert_null(arena_take_root(&arena));
	}
	assert_int_equal(given_back, !fits);
	end();
}

static void test_places(void **state)
{
	static const struct entry_format *const formats[] = {&entry_npt, &entry_sv39x4};

	(void)state;
	for (uint32_t i = 0; i < 2; i++) {
		check_places(formats[i], 515, 0, true);
		check_places(formats[i], 514, 0, false);
		check_places(formats[i], 515, 8, false);
		check_places(formats[i], 515, 2048, false);
	}
}

/* In check builds each entry of a table that is free leads to a frame that no machine has. */
static void leads_nowhere(const struct table *table)
{
	for (uint32_t i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		uint64_t entry = table_entries(table)[i];

		assert_true(entry_is_present(&format, entry));
		assert_int_equal(entry_pfn(&format, entry).v, 0xdead00000);
	}
}

static void test_free_tables_lead_nowhere(void **state)
{
	struct table *root;

	(void)state;
	begin(&entry_sv39x4);
	assert_int_equal(table_cache_refill(&cache, &arena, 3), 0);
	root = arena_take_root(&arena);
	for (uint32_t i = 0; i < ROOT; i++)
		table_fill(&root[i], 0);
	root->root_index = 1;
	arena_free_root(&arena, root);
	for (uint32_t i = 0; i < ROOT; i++)
		leads_nowhere(&root[i]);
	assert_int_equal(table_entries(&root[ROOT])[0], 0);
	table_cache_drain(&cache, &arena);
	for (uint32_t i = 0; i < 3 + BATCH; i++)
		leads_nowhere(&chunks[0][FIRST + i]);
	assert_int_equal(table_entries(&chunks[0][FIRST + 3 + BATCH])[0], 0);
	end();
}

static uint64_t entry_in_hand;
static uint32_t pauses;

static void let_go(unsigned int turn)
{
	assert_int_equal(turn, ++pauses);
	if (pauses == 3)
		entry_in_hand = 77;
}

/* An entry that another thread has in hand is waited for, for as long as that one needs. */
static void test_entry_in_hand(void **state)
{
	static struct quire_platform platform;

	(void)state;
	begin(&entry_npt);
	platform = *base_platform;
	platform.relax = let_go;
	quire_platform_install(&platform);
	entry_in_hand = format.frozen;
	pauses = 0;
	assert_int_equal(walk_load(&format, &entry_in_hand), 77);
	assert_int_equal(pauses, 3);
	/* One that no thread has in hand is not waited for. */
	assert_int_equal(walk_load(&format, &entry_in_hand), 77);
	assert_int_equal(pauses, 3);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refill),
	    cmocka_unit_test(test_order),
	    cmocka_unit_test(test_grows_when_it_must),
	    cmocka_unit_test(test_without_memory),
	    cmocka_unit_test(test_table_begins_anew),
	    cmocka_unit_test(test_roots),
	    cmocka_unit_test(test_no_root),
	    cmocka_unit_test(test_root_comes_back),
	    cmocka_unit_test(test_places),
	    cmocka_unit_test(test_free_tables_lead_nowhere),
	    cmocka_unit_test(test_entry_in_hand),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
