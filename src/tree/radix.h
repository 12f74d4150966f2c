/* A radix tree of words: 512 to a node, and the words of the lowest nodes are the owner's. */
#ifndef QUIRE_TREE_RADIX_H
#define QUIRE_TREE_RADIX_H

#include <quire/host.h>

#include "src/base/atomic.h"

#define RADIX_BITS 9u
#define RADIX_WORDS (1u << RADIX_BITS)

/*
 * A tree of @height levels of nodes has 512^height words, all 0 until another value is stored; with
 * no level the root is the one word. Nodes come when they are first needed, by a compare-exchange,
 * and go with the tree: so readers need no lock for the tree, only for what the words say. The
 * owner keeps the root, 0 at the start (the highest node, or the word), and knows the height.
 */

/* Where nodes come from, all zeroes; NULL: there is none. */
struct radix_memory {
	u64 *(*make)(void *ctx);
	void (*free)(void *ctx, u64 *node);
	void *ctx;
};

/* The two for nodes in memory of the host's: @ctx is a struct radix_host. */
struct radix_host {
	const struct quire_host_ops *ops;
	void *ctx;
};
u64 *radix_host_make(void *ctx);
void radix_host_free(void *ctx, u64 *node);

/* Levels that @count words need. */
u32 radix_height(u64 count);

static inline u32 radix_at(u64 index, u32 level)
{
	return (u32)(index >> (level - 1) * RADIX_BITS) % RADIX_WORDS;
}

/*
 * The word at @index, or NULL where it is 0 and has no node; *@level is then the level at which
 * nothing hangs. Words of 512 indices from a multiple of 512 on are neighbours.
 */
static always_inline u64 *radix_look(const u64 *root, u32 height, u64 index, u32 *level)
{
	u64 *word = (u64 *)(uintptr_t)root;

	for (*level = height; *level; --*level) {
		u64 *node = (u64 *)(uintptr_t)atomic_load_acquire_u64(word);

		if (!node)
			return NULL;
		word = &node[radix_at(index, *level)];
	}
	return word;
}

static always_inline u64 *radix_find(const u64 *root, u32 height, u64 index)
{
	u32 level;

	return radix_look(root, height, index, &level);
}

/* The same, making its nodes; NULL without memory. Several threads may make at once. */
u64 *radix_make(u64 *root, u32 height, u64 index, const struct radix_memory *memory);
/* The first word of [*@index, @end) that is not 0, and its index; NULL when all are. The caller
 * loads the word itself, in the order that it needs. */
u64 *radix_next(const u64 *root, u32 height, u64 *index, u64 end);
/* Free all nodes, and before each its words that are not 0 (@leaf may be NULL). No reader is left.
 */
void radix_free(u64 *root, u32 height, const struct radix_memory *memory,
		void (*leaf)(void *ctx, u64 word));

#endif
