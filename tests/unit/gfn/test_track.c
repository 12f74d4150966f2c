/* Sparse arrays of words, up to the last one; and the write-track counts that are in them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/gfn/level.h"
#include "src/gfn/track.h"
#include "src/vm/locks.h"
#include "tests/unit/fake_host.h"

#define LAST (SPARSE_LIMIT - 1)

static struct quire_vm *vm;
static struct table_cache tables;
static struct gfn_track track;
static uint32_t written;

static void begin(void)
{
	vm = fake_vm_make(QUIRE_VM_DEFAULT);
	tables = (struct table_cache){0};
	assert_int_equal(table_cache_fill(&tables, &vm->arena, 4 * SPARSE_DEPTH), 0);
}

static void end(void)
{
	table_cache_drain(&tables, &vm->arena);
	fake_vm_end(vm);
}

/* What is past the end has no word, and costs no page; the last word is like the others. */
static void test_ends(void **state)
{
	static const u64 past[] = {SPARSE_LIMIT, SPARSE_LIMIT + 1, UINT64_MAX};
	struct sparse sparse = {0};
	u64 at;

	(void)state;
	begin();
	for (u32 i = 0; i < 3; i++) {
		assert_null(sparse_make(&sparse, past[i], &tables));
		assert_null(sparse_find(&sparse, past[i]));
	}
	assert_int_equal(sparse.pages, 0);
	assert_null(sparse_find(&sparse, LAST));
	*sparse_make(&sparse, LAST, &tables) = 7;
	*sparse_make(&sparse, 0, &tables) = 5;
	assert_int_equal(*sparse_find(&sparse, LAST), 7);
	assert_int_equal(*sparse_find(&sparse, LAST - 1), 0);
	/* They share the highest page alone. */
	assert_int_equal(sparse.pages, 2 * SPARSE_DEPTH - 1);
	/* What is past the end is no other name of what is before it. */
	for (u32 i = 0; i < 3; i++)
		assert_null(sparse_find(&sparse, past[i]));
	at = 0;
	assert_int_equal(*sparse_next(&sparse, &at, UINT64_MAX), 5);
	at = 1;
	assert_null(sparse_next(&sparse, &at, LAST));
	at = 1;
	assert_int_equal(*sparse_next(&sparse, &at, UINT64_MAX), 7);
	assert_int_equal(at, LAST);
	at = SPARSE_LIMIT;
	assert_null(sparse_next(&sparse, &at, UINT64_MAX));
	sparse_free(&sparse, &vm->arena);
	assert_int_equal(sparse.pages, 0);
	assert_int_equal(sparse.root, 0);
	end();
}

/* Each page of a path is missing once: what was made until then is kept for the next try. */
static void test_without_tables(void **state)
{
	struct table_cache few = {0};
	struct sparse sparse = {0};

	(void)state;
	begin();
	for (u32 i = 0; i < SPARSE_DEPTH; i++) {
		assert_null(sparse_make(&sparse, 513, &few));
		assert_int_equal(sparse.pages, i);
		assert_null(sparse_find(&sparse, 513));
		/* It holds anything. */
		table_fill(tables.tables, UINT64_MAX);
		table_cache_put(&few, table_cache_take(&tables));
	}
	assert_int_equal(*sparse_make(&sparse, 513, &few), 0);
	assert_int_equal(*sparse_find(&sparse, 1023), 0);
	assert_null(sparse_find(&sparse, 1024));
	assert_null(sparse_find(&sparse, 511));
	sparse_free(&sparse, &vm->arena);
	end();
}

static void count_written(struct quire_vm *of, u32 as_id, gpa_t gpa, u64 size_bytes)
{
	assert_ptr_equal(of, vm);
	assert_int_equal(as_id, 1);
	assert_int_equal(gpa.v, 0x5008);
	assert_int_equal(size_bytes, 8);
	written++;
}

enum change { ADD, REMOVE, LET_LAG, RESUME, FORGET };

static int change(enum change what, gfn_t gfn)
{
	switch (what) {
	case ADD:
		return gfn_track_add(vm, 1, gfn, &tables);
	case REMOVE:
		gfn_track_remove(vm, 1, gfn);
		return 0;
	case LET_LAG:
		gfn_track_let_lag(vm, 1, gfn);
		return 0;
	case RESUME:
		return gfn_track_resume(vm, 1, gfn);
	default:
		gfn_track_forget(vm, 1, gfn);
		return 0;
	}
}

/* Is the gfn that is marked among [@gfn, @gfn + @pages)? */
static void block_has(gfn_t marked, u64 gfn, u64 pages, bool any)
{
	gfn_t at = {gfn};
	bool inside = any && marked.v >= gfn && marked.v < gfn + pages;

	assert_int_equal(gfn_track_block(vm, 1, at, pages), inside);
	assert_int_equal(gfn_track_next(vm, 1, &at, (gfn_t){gfn + pages}), inside);
	if (inside)
		assert_int_equal(at.v, marked.v);
	/* The other address space has counts of its own. */
	at.v = gfn;
	assert_false(gfn_track_block(vm, 0, at, pages));
}

static void gfn_is(gfn_t gfn, bool followed, bool any)
{
	assert_int_equal(gfn_is_tracked(vm, 1, gfn), followed);
	assert_false(gfn_is_tracked(vm, 0, gfn));
	assert_false(gfn_is_tracked(vm, 1, (gfn_t){gfn.v + 1}));
	assert_int_equal(track.pages, any);
	block_has(gfn, gfn.v, 1, any);
	block_has(gfn, gfn.v + 1, 511, any);
	block_has(gfn, gfn.v - 3, 3, any);
	block_has(gfn, gfn.v - 3, 4, any);
}

/* The life of a gfn: what each change answers, whether the gfn is followed, or has a count. */
static void test_counts(void **state)
{
	static const struct {
		enum change what;
		int answer;
		bool followed, any;
	} steps[] = {
	    {ADD, 1, 1, 1},	{ADD, 0, 1, 1},	    {REMOVE, 0, 1, 1},	{REMOVE, 0, 0, 0},
	    {ADD, 1, 1, 1},	{LET_LAG, 0, 0, 1}, {RESUME, 1, 1, 1},	{ADD, 0, 1, 1},
	    {LET_LAG, 0, 1, 1}, {RESUME, 0, 1, 1},  {LET_LAG, 0, 1, 1}, {LET_LAG, 0, 0, 1},
	    {ADD, 1, 1, 1},	{REMOVE, 0, 0, 1},  {RESUME, 1, 1, 1},	{FORGET, 0, 1, 1},
	    {REMOVE, 0, 0, 0},	{ADD, 1, 1, 1},	    {LET_LAG, 0, 0, 1}, {FORGET, 0, 0, 0},
	};
	gfn_t gfn = {512 * 512 + 5};

	(void)state;
	begin();
	memset(&track, 0, sizeof(track));
	track.written = count_written;
	written = 0;
	gfn_track_written(vm, 1, (gpa_t){0x5008}, 8);
	biglock_write_lock(&vm->mmu_lock);
	assert_false(gfn_track_block(vm, 1, gfn, 1));
	assert_false(gfn_is_tracked(vm, 1, gfn));
	vm->track = &track;
	for (u32 i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		assert_int_equal(change(steps[i].what, gfn), steps[i].answer);
		gfn_is(gfn, steps[i].followed, steps[i].any);
		biglock_write_unlock(&vm->mmu_lock);
		written = 0;
		gfn_track_written(vm, 1, (gpa_t){0x5008}, 8);
		assert_int_equal(written, steps[i].any);
		biglock_write_lock(&vm->mmu_lock);
	}
	biglock_write_unlock(&vm->mmu_lock);
	vm->track = NULL;
	sparse_free(&track.counts[1], &vm->arena);
	end();
}

/* What is followed is mapped small, and no more than the block around it. */
static void test_levels(void **state)
{
	static const struct {
		u64 gfn;
		u32 level;
	} rows[] = {
	    {0, QUIRE_LEVEL_4K},
	    {5, QUIRE_LEVEL_4K},
	    {511, QUIRE_LEVEL_4K},
	    {512, QUIRE_LEVEL_2M},
	    {512 * 512 - 1, QUIRE_LEVEL_2M},
	    {512 * 512, QUIRE_LEVEL_1G},
	    {2 * 512 * 512 - 1, QUIRE_LEVEL_1G},
	};
	struct memslot slot = {.npages = 2 * 512 * 512, .hva = {UINT64_C(1) << 30}};

	(void)state;
	begin();
	mutex_lock(&vm->slots_lock);
	memset(&track, 0, sizeof(track));
	vm->track = &track;
	biglock_write_lock(&vm->mmu_lock);
	assert_int_equal(gfn_track_add(vm, 0, (gfn_t){5}, &tables), 1);
	for (u32 i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (u32 max = QUIRE_LEVEL_4K; max <= QUIRE_LEVEL_1G; max++)
			assert_int_equal(
			    gfn_level_max(vm, &slot, (gfn_t){rows[i].gfn}, (enum quire_level)max),
			    max < rows[i].level ? max : rows[i].level);
	biglock_write_unlock(&vm->mmu_lock);
	mutex_unlock(&vm->slots_lock);
	vm->track = NULL;
	sparse_free(&track.counts[0], &vm->arena);
	end();
}

/* Without tables a gfn is not followed, and nothing is counted. */
static void test_add_without_tables(void **state)
{
	struct table_cache none = {0};

	(void)state;
	begin();
	memset(&track, 0, sizeof(track));
	vm->track = &track;
	biglock_write_lock(&vm->mmu_lock);
	assert_int_equal(gfn_track_add(vm, 0, (gfn_t){7}, &none), -ENOMEM);
	assert_int_equal(track.pages, 0);
	/* The last gfn that there is, twice: two gfns with counts are two pages. */
	assert_int_equal(gfn_track_add(vm, 0, vm->max_gfn, &tables), 1);
	assert_int_equal(gfn_track_add(vm, 0, (gfn_t){7}, &tables), 1);
	assert_int_equal(track.pages, 2);
	gfn_track_remove(vm, 0, (gfn_t){7});
	assert_int_equal(track.pages, 1);
	assert_true(gfn_is_tracked(vm, 0, vm->max_gfn));
	biglock_write_unlock(&vm->mmu_lock);
	vm->track = NULL;
	sparse_free(&track.counts[0], &vm->arena);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ends),   cmocka_unit_test(test_without_tables),
	    cmocka_unit_test(test_counts), cmocka_unit_test(test_add_without_tables),
	    cmocka_unit_test(test_levels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
