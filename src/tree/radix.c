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

u64 *radix_make(struct radix radix, u64 index, const struct radix_memory *memory)
{
	u64 *word = radix.root;

	for (u32 level = radix.height; level; level--) {
		u64 *node = node_make(word, memory);

		if (!node)
			return NULL;
		word = &node[radix_at(index, level)];
	}
	return word;
}

u64 *radix_next(struct radix radix, u64 *index, u64 end)
{
	while (*index < end) {
		u32 level;
		u64 *word = radix_look(radix, *index, &level);

		if (word && atomic_load_acquire_u64(word))
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

void radix_free(struct radix radix, const struct radix_memory *memory,
		void (*leaf)(void *ctx, u64 word))
{
	const struct ending ending = {memory, leaf};

	free_below(&ending, *radix.root, radix.height);
	*radix.root = 0;
}
