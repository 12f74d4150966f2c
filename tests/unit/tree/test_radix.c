/* The radix tree of words against a list of indices, with and without memory for its nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/tree/radix.h"

static unsigned int nodes, nodes_max;
static uint64_t sum;

static uint64_t *make(void *ctx)
{
	if (nodes == nodes_max)
		return NULL;
	nodes++;
	return calloc(RADIX_WORDS, sizeof(uint64_t));
}

static void give_back(void *ctx, uint64_t *node)
{
	nodes--;
	free(node);
}

static void add_up(void *ctx, uint64_t word)
{
	sum += word;
}

static const struct radix_memory memory = {.make = make, .free = give_back};

/* Neighbours, both sides of a node's end, and the ends of the tree. */
static const uint64_t indices[] = {
    0, 1, 511, 512, 513, 5 * 512 + 7, 512 * 512 - 1, 512 * 512, 512 * 512 * 512 - 1,
};
#define INDICES (sizeof(indices) / sizeof(indices[0]))

static void test_heights(void **state)
{
	assert_int_equal(radix_height(0), 0);
	assert_int_equal(radix_height(1), 0);
	assert_int_equal(radix_height(2), 1);
	assert_int_equal(radix_height(512), 1);
	assert_int_equal(radix_height(513), 2);
	assert_int_equal(radix_height(UINT64_MAX), 8);
}

static void test_no_level(void **state)
{
	uint64_t root = 0, at = 0;
	const u32 height = 0;

	assert_null(radix_next(&root, height, &at, 1));
	assert_ptr_equal(radix_make(&root, height, 0, &memory), &root);
	root = 7;
	at = 0;
	assert_ptr_equal(radix_next(&root, height, &at, 1), &root);
	sum = 0;
	radix_free(&root, height, &memory, add_up);
	assert_int_equal(sum, 7);
	assert_int_equal(root, 0);
}

static void test_words(void **state)
{
	uint64_t root = 0, at = 0;
	const u32 height = 3;

	nodes_max = 100;
	for (size_t i = 0; i < INDICES; i++) {
		uint64_t *word = radix_make(&root, height, indices[i], &memory);

		assert_non_null(word);
		assert_int_equal(*word, 0);
		*word = i + 1;
		assert_ptr_equal(radix_make(&root, height, indices[i], &memory), word);
		assert_ptr_equal(radix_find(&root, height, indices[i]), word);
	}
	/* The root; three nodes in the middle; six of words. */
	assert_int_equal(nodes, 1 + 3 + 6);
	assert_null(radix_find(&root, height, 9 * 512));
	assert_int_equal(*radix_find(&root, height, 514), 0);
	for (size_t i = 0; i < INDICES; i++, at++) {
		assert_int_equal(*radix_next(&root, height, &at, UINT64_MAX / 2), i + 1);
		assert_int_equal(at, indices[i]);
	}
	assert_null(radix_next(&root, height, &at, 512 * 512 * 512));
	sum = 0;
	radix_free(&root, height, &memory, add_up);
	assert_int_equal(sum, INDICES * (INDICES + 1) / 2);
	assert_int_equal(nodes, 0);
}

/* What was made of a path stays, and the next attempt goes on from there. */
static void test_without_memory(void **state)
{
	uint64_t root = 0;
	const u32 height = 3;

	for (nodes_max = 0; nodes_max < 3; nodes_max++) {
		assert_null(radix_make(&root, height, 5, &memory));
		assert_int_equal(nodes, nodes_max);
		assert_null(radix_find(&root, height, 5));
	}
	assert_non_null(radix_make(&root, height, 5, &memory));
	radix_free(&root, height, &memory, NULL);
	assert_int_equal(nodes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_heights),
	    cmocka_unit_test(test_no_level),
	    cmocka_unit_test(test_words),
	    cmocka_unit_test(test_without_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
