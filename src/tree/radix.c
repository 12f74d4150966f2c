/* A radix tree of words. */
#include "src/tree/radix.h"

#include "src/base/assert.h"

u32 radix_height(u64 count)
{
	u32 height = 0;

	while (height * RADIX_BITS < 64 && count > UINT64_C(1) << height * RADIX_BITS)
		height++;
	return height;
}

u64 *radix_host_make(void *ctx)
{
	const struct radix_host *host = ctx;

	return host->ops->alloc(host->ctx, RADIX_WORDS * sizeof(u64));
}

void radix_host_free(void *ctx, u64 *node)
{
	const struct radix_host *host = ctx;

	host->ops->free(host->ctx, node, RADIX_WORDS * sizeof(u64));
}

/* The node that @word points to, made if it was not there. */
static u64 *node_make(u64 *word, const struct radix_memory *memory)
{
	u64 there = atomic_load_acquire_u64(word);
	u64 *made;

	if (there)
		return (u64 *)(uintptr_t)there;
	made = memory->make(memory->ctx);
	if (!made || atomic_cmpxchg_u64(word, &there, (u64)(uintptr_t)made))
		return made;
	CHECK(there && there != (u64)(uintptr_t)made);
	/* Another thread was first. */
	memory->free(memory->ctx, made);
	return (u64 *)(uintptr_t)there;
}

u64 *radix_make(u64 *root, u32 height, u64 index, const struct radix_memory *memory)
{
	u64 *word = root;

	for (u32 level = height; level; level--) {
		u64 *node = node_make(word, memory);

		if (!node)
			return NULL;
		word = &node[radix_at(index, level)];
	}
	return word;
}

u64 *radix_next(const u64 *root, u32 height, u64 *index, u64 end)
{
	while (*index < end) {
		u32 level;
		u64 *word = radix_look(root, height, *index, &level);

		if (word && atomic_load_relaxed_u64(word))
			return word;
		/* Nothing at this level: on to where the next entry of it begins. */
		*index = ((*index >> level * RADIX_BITS) + 1) << level * RADIX_BITS;
	}
	return NULL;
}

struct ending {
	const struct radix_memory *memory;
	void (*leaf)(void *ctx, u64 word);
};

static void free_below(const struct ending *ending, u64 word, u32 level)
{
	u64 *node = (u64 *)(uintptr_t)word;

	if (!word)
		return;
	if (!level) {
		if (ending->leaf)
			ending->leaf(ending->memory->ctx, word);
		return;
	}
	for (u32 i = 0; i < RADIX_WORDS && (level > 1 || ending->leaf); i++)
		free_below(ending, node[i], level - 1);
	ending->memory->free(ending->memory->ctx, node);
}

void radix_free(u64 *root, u32 height, const struct radix_memory *memory,
		void (*leaf)(void *ctx, u64 word))
{
	const struct ending ending = {memory, leaf};

	free_below(&ending, *root, height);
	*root = 0;
}
