/*
 * The persistent tree against a sorted array, version by version, with and without memory. Built
 * twice: with the nodes of the library, and with small ones that make higher trees.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/base/assert.h"
#include "src/tree/ptree.h"
#include "src/tree/ptree_node.h"
#include "tests/unit/fake_host.h"

#define KEYS 600u

/* The same items, naively: end of key i, 0 when absent. */
struct model {
	u64 end[KEYS];
	u64 count;
};

/*
 * How far apart the keys are that stand for 0, 1, 2 ...: one; further than short keys can tell
 * apart within a node; or close together at places far apart, so that short keys are the same.
 */
enum spread { SPREAD_NONE, SPREAD_WIDE, SPREAD_CLUSTERS, SPREADS };
static enum spread spread;

static u64 key_of(u64 index)
{
	if (index == UINT64_MAX)
		return UINT64_MAX;
	if (spread == SPREAD_WIDE)
		return (index << 52) + index;
	return spread == SPREAD_CLUSTERS ? (index / 50 << 55) + index % 50 : index;
}

static void *value_of(u64 key)
{
	return (void *)(uintptr_t)(key * 3 + 1);
}

/* The item for @at, a key of @index or one above it that is below the next. */
static void check_floor(const struct ptree *tree, const struct model *model, u64 index, u64 at)
{
	struct ptree_item item = {0};
	s64 want = (s64)index;
	int found = ptree_floor(tree, at, &item);

	while (want >= 0 && !model->end[want])
		want--;
	assert_int_equal(found, want >= 0);
	if (!found) {
		assert_null(ptree_find(tree, at));
		return;
	}
	assert_int_equal(item.key, key_of((u64)want));
	assert_int_equal(item.end, key_of(model->end[want]));
	assert_ptr_equal(item.value, value_of((u64)want));
	assert_ptr_equal(ptree_find(tree, at), at < item.end ? item.value : NULL);
}

static void check_overlap(const struct ptree *tree, const struct model *model, u64 start, u64 end)
{
	struct ptree_cursor cursor;
	struct ptree_item item;
	u64 want = 0;

	ptree_for_overlap(tree, key_of(start), key_of(end), &cursor, &item)
	{
		while (want < KEYS && !(want < end && model->end[want] > start))
			want++;
		assert_in_range(want, 0, KEYS - 1);
		assert_int_equal(item.key, key_of(want));
		assert_int_equal(item.end, key_of(model->end[want]));
		want++;
	}
	for (; want < KEYS && want < end; want++)
		assert_true(model->end[want] <= start);
	/* A walk that has ended stays so. */
	assert_false(ptree_overlap_next(&cursor, &item));
}

static void check_tree(const struct ptree *tree, const struct model *model)
{
	assert_int_equal(tree->count, model->count);
	for (u64 key = 0; key < KEYS; key++)
		check_floor(tree, model, key, key_of(key));
	for (u64 key = 0; key < KEYS; key++)
		check_floor(tree, model, key, key_of(key + 1) - 1);
	check_floor(tree, model, KEYS - 1, UINT64_MAX);
	check_overlap(tree, model, 0, UINT64_MAX);
	for (unsigned int i = 0; i < 8; i++) {
		u64 start = (u64)rand() % KEYS;

		check_overlap(tree, model, start, start + 1 + (u64)rand() % 64);
	}
}

/* One random change; the model changes when the tree did. */
static int change_one(struct ptree *tree, struct model *model, struct ptree_edit *edit, u64 key)
{
	u64 end = key + 1 + (u64)rand() % 40;
	struct ptree_item item = {key_of(key), key_of(end), value_of(key)};
	int error;

	if (model->end[key]) {
		error = ptree_remove(tree, key_of(key), edit);
		if (!error) {
			model->end[key] = 0;
			model->count--;
		}
		return error;
	}
	error = ptree_insert(tree, &item, edit);
	if (!error) {
		model->end[key] = end;
		model->count++;
	}
	return error;
}

static u64 pick_key(unsigned int round)
{
	/* Rising, falling, random: each shape fills and empties nodes differently. */
	switch (round / KEYS % 4) {
	case 0:
		return round % KEYS;
	case 1:
		return KEYS - 1 - round % KEYS;
	default:
		return (u64)rand() % KEYS;
	}
}

static void check_versions(void)
{
	struct model model = {0}, old_model;
	struct ptree tree = {0}, old;
	struct ptree_edit edit;
	unsigned int round = 0;

	fake_reset();
	srand(1);
	while (round < 8 * KEYS) {
		unsigned int changes = 1 + (unsigned int)rand() % 12;

		old = tree;
		old_model = model;
		ptree_edit_init(&edit, &fake_ops, NULL);
		for (unsigned int i = 0; i < changes; i++)
			assert_int_equal(change_one(&tree, &model, &edit, pick_key(round++)), 0);
		ptree_edit_seal(&edit);
		check_tree(&tree, &model);
		check_tree(&old, &old_model);
		ptree_edit_free_replaced(&edit);
		check_tree(&tree, &model);
	}
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

static void test_versions(void **state)
{
	for (spread = SPREAD_NONE; spread < SPREADS; spread++)
		check_versions();
	spread = SPREAD_NONE;
}

/* What comes out of the edit is thrown away, or fails for want of memory: old is as it was. */
static void test_abort_and_no_memory(void **state)
{
	static struct model model, new_model;
	struct ptree tree = {0};
	struct ptree_edit edit;

	fake_reset();
	srand(2);
	for (unsigned int round = 0; round < 400; round++) {
		u64 live = fake.live_allocs;
		int error = -ENOMEM;

		for (u64 fail = 1; error == -ENOMEM; fail++) {
			struct ptree new = tree;

			new_model = model;
			ptree_edit_init(&edit, &fake_ops, NULL);
			fake_fail_in(fail);
			error = 0;
			for (unsigned int i = 0; i < 3 && !error; i++)
				error = change_one(&new, &new_model, &edit, (u64)rand() % KEYS);
			fake_fail_in(0);
			if (!error && (round & 1))
				ptree_edit_seal(&edit);
			ptree_edit_abort(&edit);
			assert_int_equal(fake.live_allocs, live);
			if (round % 16 == 0)
				check_tree(&tree, &model);
		}
		assert_int_equal(error, 0);
		ptree_edit_init(&edit, &fake_ops, NULL);
		assert_int_equal(change_one(&tree, &model, &edit, pick_key(round * 3)), 0);
		ptree_edit_seal(&edit);
		ptree_edit_free_replaced(&edit);
	}
	check_tree(&tree, &model);
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
	/* It is an empty tree now. */
	memset(&model, 0, sizeof(model));
	check_tree(&tree, &model);
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

/* old -> mid -> new: all replaced nodes freed, or both edits undone. */
static void test_chained_edits(void **state)
{
	static struct model model, mid_model, new_model;
	struct ptree tree = {0}, mid, new;
	struct ptree_edit first, second;

	fake_reset();
	srand(3);
	for (unsigned int round = 0; round < 1000; round++) {
		u64 live = fake.live_allocs;

		mid_model = model;
		mid = tree;
		ptree_edit_init(&first, &fake_ops, NULL);
		assert_int_equal(change_one(&mid, &mid_model, &first, (u64)rand() % KEYS), 0);
		ptree_edit_seal(&first);
		new_model = mid_model;
		new = mid;
		ptree_edit_init(&second, &fake_ops, NULL);
		assert_int_equal(change_one(&new, &new_model, &second, (u64)rand() % KEYS), 0);
		ptree_edit_seal(&second);
		if (round % 50 == 0) {
			check_tree(&tree, &model);
			check_tree(&mid, &mid_model);
			check_tree(&new, &new_model);
		}
		if (round % 3 == 0) {
			ptree_edit_abort(&first);
			ptree_edit_abort(&second);
			assert_int_equal(fake.live_allocs, live);
			continue;
		}
		ptree_edit_free_replaced(&first);
		ptree_edit_free_replaced(&second);
		tree = new;
		model = new_model;
	}
	check_tree(&tree, &model);
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

static void test_errors_change_nothing(void **state)
{
	struct ptree tree = {0};
	struct ptree_edit edit;
	struct ptree_item item = {5, 9, NULL};

	fake_reset();
	ptree_edit_init(&edit, &fake_ops, NULL);
	assert_int_equal(ptree_remove(&tree, 5, &edit), -ENOENT);
	assert_int_equal(ptree_insert(&tree, &item, &edit), 0);
	assert_int_equal(ptree_insert(&tree, &item, &edit), -EEXIST);
	assert_int_equal(ptree_remove(&tree, 6, &edit), -ENOENT);
	assert_int_equal(tree.count, 1);
	ptree_edit_abort(&edit);
	assert_int_equal(fake.live_allocs, 0);
}

/* Rising keys, as slots usually come, fill nodes: the tree costs little more than its items. */
static void test_rising_keys_are_dense(void **state)
{
	struct ptree tree = {0};
	struct ptree_edit edit;

	fake_reset();
	ptree_edit_init(&edit, &fake_ops, NULL);
	for (u64 key = 0; key < 32764; key++) {
		struct ptree_item item = {key, key + 1, NULL};

		assert_int_equal(ptree_insert(&tree, &item, &edit), 0);
	}
	ptree_edit_seal(&edit);
	/* What the edit made itself it changes in place. */
	assert_in_range(fake.allocs, 1, 32764 / 4);
#ifndef PTREE_GROUPS
	assert_in_range(fake.live_bytes, 0, 32764 * 32);
#endif
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

static struct ptree rising_tree(u64 keys)
{
	struct ptree tree = {0};
	struct ptree_edit edit;

	fake_reset();
	ptree_edit_init(&edit, &fake_ops, NULL);
	for (u64 key = 0; key < keys; key++) {
		struct ptree_item item = {key, key + 1, value_of(key)};

		assert_int_equal(ptree_insert(&tree, &item, &edit), 0);
	}
	ptree_edit_seal(&edit);
	return tree;
}

static void remove_one(struct ptree *tree, u64 key)
{
	struct ptree_edit edit;

	ptree_edit_init(&edit, &fake_ops, NULL);
	assert_int_equal(ptree_remove(tree, key, &edit), 0);
	ptree_edit_seal(&edit);
	ptree_edit_free_replaced(&edit);
	assert_null(ptree_find(tree, key));
}

/* Rising keys leave a node that has one child, which gets small and has no neighbour there. */
static void test_only_child(void **state)
{
	const u64 full = (u64)FANOUT * FANOUT, keys = full + FILL_MIN;
	struct ptree tree = rising_tree(keys);

	(void)state;
	assert_int_equal(tree.root->level, 2);
	assert_int_equal(tree.root->count, 2);
	assert_int_equal(((struct ptree_node *)tree.root->values[1])->count, 1);
	for (u64 key = keys; key-- > full;) {
		remove_one(&tree, key);
		assert_int_equal(tree.count, key);
		for (u64 left = full - FANOUT; left < key; left++)
			assert_ptr_equal(ptree_find(&tree, left), value_of(left));
	}
	/* The node above it got small, too, and shared with its neighbour. */
	assert_in_range(((struct ptree_node *)tree.root->values[1])->count, FANOUT / 2,
			FANOUT / 2 + 1);
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

/* A full tree needs two copies, two new nodes and a root for one more item: it gets all or none. */
static void test_no_memory_for_a_full_tree(void **state)
{
	const u64 full = (u64)FANOUT * FANOUT;
	const struct ptree_item item = {full, full + 1, value_of(full)};
	struct ptree tree = rising_tree(full);
	u64 live = fake.live_allocs;

	(void)state;
	assert_int_equal(tree.root->level, 1);
	assert_int_equal(tree.root->count, FANOUT);
	for (u64 fail = 1; fail <= 6; fail++) {
		struct ptree new = tree;
		struct ptree_edit edit;

		ptree_edit_init(&edit, &fake_ops, NULL);
		fake_fail_in(fail);
		assert_int_equal(ptree_insert(&new, &item, &edit), fail < 6 ? -ENOMEM : 0);
		fake_fail_in(0);
		ptree_edit_abort(&edit);
		assert_int_equal(fake.live_allocs, live);
		assert_null(ptree_find(&tree, full));
		assert_ptr_equal(ptree_find(&tree, full - 1), value_of(full - 1));
	}
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

/* A small leaf and a full neighbour get the same share; and what fits in one leaf is in one. */
static void test_neighbours_share(void **state)
{
	struct ptree tree = rising_tree(FANOUT + FILL_MIN);
	u64 left = FANOUT + FILL_MIN - 1;

	(void)state;
	assert_int_equal(tree.root->count, 2);
	remove_one(&tree, FANOUT);
	for (u32 i = 0; i < 2; i++)
		assert_in_range(((struct ptree_node *)tree.root->values[i])->count, left / 2,
				(left + 1) / 2);
	for (u64 key = 0; key < FANOUT; key++)
		assert_non_null(ptree_find(&tree, key));
	/* From the other end the left one gets small. */
	for (u64 key = 0; left > 1; key++, left--) {
		assert_int_equal(fake.live_allocs, tree.root->level ? 3 : 1);
		if (left <= FANOUT / 3 + 1)
			assert_int_equal(tree.root->level, 0);
		remove_one(&tree, key == FANOUT ? ++key : key);
		for (u32 i = 0; tree.root->level && i < 2; i++)
			assert_in_range(((struct ptree_node *)tree.root->values[i])->count,
					FILL_MIN, FANOUT);
	}
	/* The last item costs one node. */
	assert_int_equal(fake.live_allocs, 1);
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

/* An item in the middle of a full leaf makes two leaves of the same size. */
static void test_full_leaf_is_halved(void **state)
{
	const u32 where[] = {1, FANOUT - 1, FANOUT + 1, 2 * FANOUT - 3};

	(void)state;
	for (u32 i = 0; i < ARRAY_LEN(where); i++) {
		struct ptree_item item = {where[i], where[i] + 1, &item};
		struct ptree tree = {0};
		struct ptree_edit edit;
		u32 below = item.key < FANOUT;

		fake_reset();
		ptree_edit_init(&edit, &fake_ops, NULL);
		for (u64 key = 0; key < UINT64_C(2) * FANOUT; key += 2)
			assert_int_equal(
			    ptree_insert(&tree, &(struct ptree_item){key, key + 1, &tree}, &edit),
			    0);
		assert_int_equal(tree.root->level, 0);
		assert_int_equal(ptree_insert(&tree, &item, &edit), 0);
		ptree_edit_seal(&edit);
		assert_int_equal(tree.root->count, 2);
		for (u32 side = 0; side < 2; side++)
			assert_int_equal(((struct ptree_node *)tree.root->values[side])->count,
					 FANOUT / 2 + (below != side));
		ptree_destroy(&tree, &fake_ops, NULL);
		assert_int_equal(fake.live_allocs, 0);
	}
}

/* The first leaf gets small beside a full one: it takes from it, and neither loses an item. */
static void test_first_leaf_takes(void **state)
{
	const u64 removed = FANOUT - FILL_MIN + 1, left = 2 * FANOUT - removed;
	struct ptree tree = rising_tree(UINT64_C(2) * FANOUT);

	(void)state;
	assert_true(left > FANOUT);
	for (u64 key = 0; key < removed; key++)
		remove_one(&tree, key);
	for (u32 i = 0; i < 2; i++)
		assert_in_range(((struct ptree_node *)tree.root->values[i])->count, left / 2,
				(left + 1) / 2);
	for (u64 key = 0; key < UINT64_C(2) * FANOUT; key++)
		assert_ptr_equal(ptree_find(&tree, key), key < removed ? NULL : value_of(key));
	ptree_destroy(&tree, &fake_ops, NULL);
	assert_int_equal(fake.live_allocs, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_versions),
	    cmocka_unit_test(test_abort_and_no_memory),
	    cmocka_unit_test(test_chained_edits),
	    cmocka_unit_test(test_errors_change_nothing),
	    cmocka_unit_test(test_rising_keys_are_dense),
	    cmocka_unit_test(test_only_child),
	    cmocka_unit_test(test_no_memory_for_a_full_tree),
	    cmocka_unit_test(test_neighbours_share),
	    cmocka_unit_test(test_full_leaf_is_halved),
	    cmocka_unit_test(test_first_leaf_takes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
