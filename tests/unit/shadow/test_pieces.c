/*
 * Huge mappings of L2 that are split by hand, in one hold of mmu_lock: what the pieces are, what a
 * split needs and where it stops; and how far a hold goes through a range.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "src/base/lock.h"
#include "src/shadow/internal.h"
#include "tests/unit/shadow/by_hand.h"

#define OF_L2 (ROLE_GUEST_MODE | ROLE_WP)
#define FIRST_FRAME (UINT64_C(1) << 18)
/* What one split needs, at most. */
#define NEEDS_OBJECTS (QUIRE_TABLE_ENTRIES + 1u)

static u64 leaf_word(u32 level, uint64_t frame, bool executable)
{
	return entry_make_leaf(SHADOW_BITS, &(struct entry_leaf){.pfn = {frame},
								 .level = level,
								 .writable = true,
								 .host_writable = true,
								 .mmu_writable = true,
								 .executable = executable,
								 .accessed = true});
}

/* Entry @index of @page maps @gfn, to the frame that is as far from FIRST_FRAME. */
static void put(struct shadow_page *page, u32 index, uint64_t gfn, u32 access, bool executable)
{
	const struct shadow_leaf leaf = {
	    .gfn = {gfn},
	    .access = access,
	    .value = leaf_word(role_level(page->role), FIRST_FRAME + gfn, executable),
	};

	assert_int_equal(shadow_add_leaf(&change, &table_entries(page->table)[index], &leaf), 0);
}

/* A page of L2's with @count huge leaves for blocks from gfn 0 on. */
static struct shadow_page *huge_page(u32 level, u32 count)
{
	struct shadow_page *page = page_get(OF_L2 | level, SOME_GFN);

	for (u32 i = 0; i < count; i++)
		put(page, i, i * level_pages((enum quire_level)level), ACCESS_ALL, true);
	return page;
}

/* @page with what its first @count entries lead to. */
static void zap_tree(struct shadow_page *page, u32 count)
{
	for (u32 i = 0; i < count; i++)
		if (child_of(page, i))
			shadow_page_zap(&change, child_of(page, i));
	shadow_page_zap(&change, page);
}

static struct shadow_split split_of(u32 level, uint64_t start, uint64_t end_gfn)
{
	return (struct shadow_split){.start = {start}, .end = {end_gfn}, .level = level};
}

static int split_next(struct shadow_split *split)
{
	return shadow_split_next(world.vm, split, &debt);
}

/* Split one huge leaf with so much at hand: it goes, or stays and waits for more. */
static void check_needs(u32 descriptors, u32 headers, u32 pages, u32 rmaps, int wanted)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	struct shadow_page *page;

	begin();
	page = huge_page(QUIRE_LEVEL_2M, 1);
	keep_objects(&shadow->split_descriptors, descriptors);
	keep_objects(&shadow->split_headers, headers);
	keep_tables(&shadow->split_pages, pages);
	keep_tables(&shadow->split_rmaps, rmaps);
	assert_int_equal(split_next(&split), wanted);
	assert_int_equal(split.progress, !wanted);
	assert_int_equal(child_of(page, 0) != NULL, !wanted);
	object_cache_move(&shadow->split_descriptors, &hidden_objects);
	while (hidden_tables.count)
		table_cache_put(&shadow->split_rmaps, table_cache_take(&hidden_tables));
	zap_tree(page, 1);
	end();
}

static void test_what_a_split_needs(void **state)
{
	(void)state;
	check_needs(NEEDS_OBJECTS, 1, 1, SPARSE_DEPTH, 0);
	check_needs(NEEDS_OBJECTS - 1, 1, 1, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 0, 1, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 1, 0, SPARSE_DEPTH, -EAGAIN);
	check_needs(NEEDS_OBJECTS, 1, 1, SPARSE_DEPTH - 1, -EAGAIN);
}

/* Five shadow pages that may still be made are for faults: the block stays huge. */
static void test_split_leaves_pages_for_faults(void **state)
{
	(void)state;
	for (u32 available = 5; available <= 6; available++) {
		struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
		struct shadow_page *page;

		begin();
		page = huge_page(QUIRE_LEVEL_2M, 1);
		world.vm->nr_mmu_pages = shadow->pages + available;
		assert_int_equal(split_next(&split), 0);
		assert_int_equal(split.progress, available == 6);
		assert_int_equal(child_of(page, 0) != NULL, available == 6);
		world.vm->nr_mmu_pages = 4096;
		zap_tree(page, 1);
		end();
	}
}

/* A hold of the lock splits 32, and the next one goes on behind them. */
static void test_splits_of_one_hold(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 40 * 512);
	struct shadow_page *page;

	(void)state;
	begin();
	page = huge_page(QUIRE_LEVEL_2M, 40);
	assert_int_equal(split_next(&split), -EAGAIN);
	assert_int_equal(split.progress, 32);
	for (u32 i = 0; i < 40; i++)
		assert_int_equal(child_of(page, i) != NULL, i < 32);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 8);
	for (u32 i = 0; i < 40; i++)
		assert_non_null(child_of(page, i));
	assert_false(debt.owed);
	zap_tree(page, 40);
	end();
}

/* Where a thread waits for the lock a hold splits one, and no fewer; another waiting word is none.
 */
static void test_waiter_gets_the_lock(void **state)
{
	u32 *writer = &world.vm->mmu_lock.writer, held;
	struct shadow_page *page;

	(void)state;
	for (u32 word = GATE_CLOSED; word <= GATE_SLEEPERS; word++) {
		struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 3 * 512);
		u32 most = word == GATE_SLEEPERS ? 1 : 3;

		begin();
		page = huge_page(QUIRE_LEVEL_2M, 3);
		held = *writer;
		*writer = word;
		for (u32 done = most; done < 3; done++) {
			assert_int_equal(split_next(&split), -EAGAIN);
			assert_int_equal(split.progress, most);
		}
		assert_int_equal(split_next(&split), 0);
		assert_int_equal(split.progress, most);
		*writer = held;
		zap_tree(page, 3);
		end();
	}
}

/* Blocks that the range touches are split, and no other. */
static void check_borders(uint64_t start, uint64_t end_gfn, u32 first, u32 last)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_1G, start, end_gfn);
	struct shadow_page *page;

	begin();
	page = huge_page(QUIRE_LEVEL_2M, 6);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, last - first + 1);
	for (u32 i = 0; i < 6; i++)
		assert_int_equal(child_of(page, i) != NULL, i >= first && i <= last);
	zap_tree(page, 6);
	end();
}

static void test_split_ends_with_the_range(void **state)
{
	(void)state;
	check_borders(2 * 512, 3 * 512, 2, 2);
	check_borders(2 * 512 + 511, 3 * 512 + 1, 2, 3);
	check_borders(2 * 512 - 1, 3 * 512, 1, 2);
	check_borders(0, 1, 0, 0);
	check_borders(512, 4 * 512 - 1, 1, 3);
}

/* Nothing of the guest's own is split, and nothing that is obsolete. */
static void test_what_is_not_split(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	struct shadow_page *own, *page;

	(void)state;
	begin();
	own = page_get(ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	put(own, 0, 0, ACCESS_ALL, true);
	page = huge_page(QUIRE_LEVEL_2M, 1);
	page->generation--;
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 0);
	page->generation++;
	split = split_of(QUIRE_LEVEL_2M, 0, 512);
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(split.progress, 1);
	assert_null(child_of(own, 0));
	zap_tree(page, 1);
	shadow_page_zap(&change, own);
	end();
}

/*
 * Pieces map the frames behind the first one; 4K pieces may be executed where L1 allows it, larger
 * ones not where the huge leaf was not.
 */
static void check_pieces(u32 level, u32 access, bool executable, bool pieces_executable)
{
	/* Of a larger piece the first one is looked at, before it is split itself. */
	struct shadow_split split = split_of(level, 0, 1);
	const u64 *leaves = world.vm->leaves;
	u64 small = leaves[level - 1], large = leaves[level];
	u64 *longest = &world.vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size];
	u64 step = level_pages((enum quire_level)(level - 1));
	struct shadow_page *page, *child;

	begin();
	page = page_get(OF_L2 | level, SOME_GFN);
	put(page, 9, 0, access, executable);
	*longest = 0;
	if (level == QUIRE_LEVEL_1G)
		keep_objects(&shadow->split_headers, 1);
	assert_int_equal(split_next(&split), level == QUIRE_LEVEL_1G ? -EAGAIN : 0);
	assert_int_equal(split.progress, 1);
	child = child_of(page, 9);
	assert_int_equal(child->role,
			 OF_L2 | ROLE_DIRECT | (level - 1) | access << ROLE_ACCESS_SHIFT);
	assert_int_equal(child->gfn.v, 0);
	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++) {
		u64 *entry = &table_entries(child->table)[i];

		assert_int_equal(*entry,
				 leaf_word(level - 1, FIRST_FRAME + i * step, pieces_executable));
		assert_int_equal(*rmap_head(shadow, child, (gfn_t){i * step}, level - 1),
				 (uintptr_t)entry);
	}
	assert_int_equal(*rmap_head(shadow, page, (gfn_t){0}, level), 0);
	assert_int_equal(leaves[level - 1], small + QUIRE_TABLE_ENTRIES);
	assert_int_equal(leaves[level], large);
	assert_int_equal(*longest, 1);
	assert_false(debt.owed);
	object_cache_move(&shadow->split_headers, &hidden_objects);
	shadow_page_zap(&change, child);
	shadow_page_zap(&change, page);
	end();
}

static void test_pieces(void **state)
{
	const u32 no_exec = ACCESS_ALL & ~ACCESS_EXEC;

	(void)state;
	check_pieces(QUIRE_LEVEL_2M, ACCESS_ALL, true, true);
	check_pieces(QUIRE_LEVEL_2M, ACCESS_ALL, false, true);
	check_pieces(QUIRE_LEVEL_2M, no_exec, false, false);
	check_pieces(QUIRE_LEVEL_1G, ACCESS_ALL, true, true);
	check_pieces(QUIRE_LEVEL_1G, ACCESS_ALL, false, false);
	check_pieces(QUIRE_LEVEL_1G, no_exec, false, false);
}

/* A gfn that another page maps as well: its set has two, and takes an object. */
static void test_piece_with_another_name(void **state)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_2M, 0, 512);
	u64 *longest = &world.vm->stats[QUIRE_VM_STAT_max_mmu_rmap_size], head;
	struct shadow_page *page, *other, *child;
	u32 objects;

	(void)state;
	begin();
	page = huge_page(QUIRE_LEVEL_2M, 1);
	other = page_get(ROLE_DIRECT | ROLE_NX | QUIRE_LEVEL_4K, 0);
	put(other, 7, 7, ACCESS_ALL, true);
	*longest = 0;
	objects = shadow->split_descriptors.count;
	assert_int_equal(split_next(&split), 0);
	assert_int_equal(shadow->split_descriptors.count, objects - 1);
	assert_int_equal(*longest, 2);
	child = child_of(page, 0);
	head = *rmap_head(shadow, child, (gfn_t){7}, QUIRE_LEVEL_4K);
	assert_int_equal(rmap_count(head), 2);
	assert_ptr_equal(rmap_at(head, 0), &table_entries(other->table)[7]);
	assert_ptr_equal(rmap_at(head, 1), &table_entries(child->table)[7]);
	zap_tree(page, 1);
	shadow_page_zap(&change, other);
	end();
}

/* A child that is there already is completed; where it leads to a table, which may map less, the
 * split flushes.
 */
static void check_child_there(bool leads_on)
{
	struct shadow_split split = split_of(QUIRE_LEVEL_1G, 0, 1);
	uint64_t flushes = world.vm->flush.flushes;
	u64 leaves = world.vm->leaves[QUIRE_LEVEL_2M];
	struct shadow_page *page, *child, *below;

	begin();
	page = huge_page(QUIRE_LEVEL_1G, 1);
	child = page_get(OF_L2 | ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	below = page_get(OF_L2 | ROLE_DIRECT | QUIRE_LEVEL_4K, 3 * 512);
	put(child, 4, 4 * 512, ACCESS_ALL, false);
	if (leads_on)
		assert_int_equal(shadow_link(&change, &table_entries(child->table)[3], below), 0);
	assert_int_equal(split_next(&split), 0);
	assert_ptr_equal(child_of(page, 0), child);
	for (u32 i = 1; i < QUIRE_TABLE_ENTRIES; i++)
		if (i != 3 || !leads_on)
			assert_int_equal(table_entries(child->table)[i],
					 leaf_word(QUIRE_LEVEL_2M, FIRST_FRAME + i * 512, i != 4));
	if (leads_on)
		assert_ptr_equal(child_of(child, 3), below);
	/* Its first piece was split, too. */
	assert_int_equal(split.progress, 2);
	assert_int_equal(world.vm->leaves[QUIRE_LEVEL_2M],
			 leaves + QUIRE_TABLE_ENTRIES - 1 - leads_on);
	assert_int_equal(world.vm->flush.flushes, flushes + leads_on);
	assert_false(debt.owed);
	shadow_page_zap(&change, below);
	shadow_page_zap(&change, child_of(child, 0));
	shadow_page_zap(&change, child);
	shadow_page_zap(&change, page);
	end();
}

static void test_child_that_is_there(void **state)
{
	(void)state;
	check_child_there(false);
	check_child_there(true);
}

static u32 asked[QUIRE_LEVEL_1G + 1];

static bool allow_none(void *ctx, gfn_t gfn, u32 level)
{
	(void)ctx;
	assert_int_equal(gfn.v, 0);
	assert_in_range(level, QUIRE_LEVEL_2M, QUIRE_LEVEL_1G);
	asked[level]++;
	return false;
}

/* Block 0 of 2 MiB and block 0 of 1 GiB are two: a recovery asks for each. */
static void test_recovery_asks_for_each_level(void **state)
{
	struct shadow_recovery recovery = {.range = shadow_range_of(0, (gfn_t){0}, (gfn_t){1}),
					   .allowed = allow_none};
	struct shadow_page *small, *large;

	(void)state;
	recovery.range.highest = QUIRE_LEVEL_2M;
	asked[QUIRE_LEVEL_2M] = asked[QUIRE_LEVEL_1G] = 0;
	begin();
	small = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 0);
	large = page_get(ROLE_DIRECT | QUIRE_LEVEL_2M, 0);
	put(small, 0, 0, ACCESS_ALL, true);
	put(large, 0, 0, ACCESS_ALL, true);
	assert_int_equal(shadow_recover(world.vm, &recovery, &debt), 0);
	assert_int_equal(asked[QUIRE_LEVEL_2M], 1);
	assert_int_equal(asked[QUIRE_LEVEL_1G], 1);
	shadow_page_zap(&change, small);
	shadow_page_zap(&change, large);
	end();
}

/* A hold of the lock is over with the third change, or with the 48th head. */
static void test_length_of_a_hold(void **state)
{
	struct shadow_piece piece;

	(void)state;
	begin();
	shadow_piece_begin(shadow, &piece);
	assert_int_equal(piece.heads, 48);
	for (u32 i = 0; i < 3; i++) {
		assert_false(shadow_piece_is_over(&piece));
		shadow->changes++;
	}
	assert_true(shadow_piece_is_over(&piece));
	shadow_piece_begin(shadow, &piece);
	piece.heads = 1;
	assert_false(shadow_piece_is_over(&piece));
	piece.heads = 0;
	assert_true(shadow_piece_is_over(&piece));
	end();
}

/* A head with entries counts for 16 more than those passed over, a page without any for one. */
static void test_heads_of_a_hold(void **state)
{
	struct shadow_range range = shadow_range_of(0, (gfn_t){1024}, (gfn_t){1536});
	struct shadow_piece piece;
	struct shadow_page *page;
	u64 *head;

	(void)state;
	begin();
	page = page_get(ROLE_DIRECT | QUIRE_LEVEL_4K, 1024);
	put(page, 5, 1024 + 5, ACCESS_ALL, true);
	put(page, 7, 1024 + 7, ACCESS_ALL, true);
	shadow_piece_begin(shadow, &piece);
	head = shadow_range_next(&piece, &range);
	assert_ptr_equal(head, rmap_head(shadow, page, (gfn_t){1024 + 5}, QUIRE_LEVEL_4K));
	assert_int_equal(range.at, 1024 + 5);
	assert_int_equal(piece.heads, 48 - 5 - 16);
	range.at++;
	head = shadow_range_next(&piece, &range);
	assert_ptr_equal(head, rmap_head(shadow, page, (gfn_t){1024 + 7}, QUIRE_LEVEL_4K));
	assert_int_equal(piece.heads, 48 - 5 - 16 - 1 - 16);
	/* So many more are passed over that it is over, and the level is, too. */
	range.at++;
	assert_null(shadow_range_next(&piece, &range));
	assert_int_equal(piece.heads, 0);
	assert_int_equal(range.level, QUIRE_LEVEL_2M);
	assert_false(shadow_range_is_done(&range));
	/* Of the other levels the range touches a block each. */
	shadow_piece_begin(shadow, &piece);
	assert_null(shadow_range_next(&piece, &range));
	assert_true(shadow_range_is_done(&range));
	assert_int_equal(piece.heads, 48 - 2);
	/* Far behind all that was ever mapped no page of heads is there: one step passes over all.
	 */
	range = shadow_range_of(0, (gfn_t){UINT64_C(1) << 34}, (gfn_t){(UINT64_C(1) << 34) + 512});
	range.highest = QUIRE_LEVEL_4K;
	shadow_piece_begin(shadow, &piece);
	assert_null(shadow_range_next(&piece, &range));
	assert_true(shadow_range_is_done(&range));
	assert_int_equal(piece.heads, 48 - 1);
	shadow_page_zap(&change, page);
	end();
}

/* Where no head can be the walk goes on to its end. */
static void test_range_behind_all_heads(void **state)
{
	struct shadow_range range =
	    shadow_range_of(0, (gfn_t){SPARSE_LIMIT - 1}, (gfn_t){SPARSE_LIMIT + 513});
	struct shadow_piece piece;

	(void)state;
	range.highest = QUIRE_LEVEL_4K;
	begin();
	for (u32 round = 0; !shadow_range_is_done(&range); round++) {
		assert_true(round < 64);
		shadow_piece_begin(shadow, &piece);
		assert_null(shadow_range_next(&piece, &range));
	}
	end();
}

#define HAND_TEST(name) cmocka_unit_test_setup_teardown(name, by_hand_setup, world_teardown_l2)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    HAND_TEST(test_what_a_split_needs),
	    HAND_TEST(test_split_leaves_pages_for_faults),
	    HAND_TEST(test_splits_of_one_hold),
	    HAND_TEST(test_waiter_gets_the_lock),
	    HAND_TEST(test_split_ends_with_the_range),
	    HAND_TEST(test_what_is_not_split),
	    HAND_TEST(test_pieces),
	    HAND_TEST(test_piece_with_another_name),
	    HAND_TEST(test_child_that_is_there),
	    HAND_TEST(test_recovery_asks_for_each_level),
	    HAND_TEST(test_length_of_a_hold),
	    HAND_TEST(test_heads_of_a_hold),
	    HAND_TEST(test_range_behind_all_heads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
