/* A node of the persistent tree: its layout, and the search in it. */
#ifndef QUIRE_TREE_PTREE_NODE_H
#define QUIRE_TREE_PTREE_NODE_H

/*
 * Fan-out: two levels of full nodes hold 36,864 items, which is enough for QUIRE_USER_SLOTS. To
 * find a short key, a search reads two lines: the header's, with the first short key of each group,
 * then one group. A short key is a key without its lowest bits, as many as make the largest key of
 * the node fit; in a tree of gfns below 8 TiB that is none. Short keys past the count are
 * SHORT_NONE, above all others, so the number of compares is the same in each node and no branch
 * depends on them. Only where short keys lack bits may node_count_exact() mispredict.
 *
 * Tests build the tree once more with fewer groups, so that few items make it high.
 */
#ifndef PTREE_GROUPS
#define PTREE_GROUPS 12u
#endif
#define GROUP_KEYS 16u
#define FANOUT (PTREE_GROUPS * GROUP_KEYS)
#define FILL_MIN (FANOUT / 3)
#define LEADERS 12u
_Static_assert(PTREE_GROUPS <= LEADERS, "each group has its leader");

#define SHORT_NONE INT32_MAX
#define SHORT_MAX (INT32_MAX - 1)

enum node_flags {
	NODE_OWN = 1u << 0,  /* built by the edit that is going on: may be changed in place */
	NODE_DEAD = 1u << 1, /* built by it and not needed any more */
};

/*
 * A leaf holds items. An inner node holds, for each child, its smallest key, the largest end in
 * it, and the child. The short keys follow from the keys: a caller that changes these calls
 * node_index() before the next search.
 */
struct ptree_node {
	u16 count;
	u8 level; /* 0: leaf */
	u8 flags;
	u32 shift; /* the lowest bits that short keys lack */
	u64 unused;
	int32_t leaders[LEADERS];		  /* short_keys[0], [16], ... once more */
	cache_aligned int32_t short_keys[FANOUT]; /* keys[] >> shift */
	u64 ends[FANOUT];
	void *values[FANOUT];
	u64 keys[FANOUT];
	struct ptree_node *built_next;
	struct ptree_node *replaced_next;
};
_Static_assert(offsetof(struct ptree_node, short_keys) == 64, "header and leaders are one line");

/* Any key, also one that the node could not hold: those are above all that it does. */
static inline int32_t key_shorten(u64 key, u64 shift)
{
	return (int32_t)min_u64(key >> shift, SHORT_MAX);
}

#if defined(__SSE2__)
/* The compilers' own names: their headers would bring libc in. */
typedef int32_t v4_s32 __attribute__((vector_size(16)));
typedef int16_t v8_s16 __attribute__((vector_size(16)));

/*
 * The lowest bit that is set; one is. In place, since the instruction also waits for what its
 * destination held, which would chain each search to the one before. (BSF where TZCNT is unknown.)
 */
static inline u32 lowest_bit(u32 bits)
{
	__asm__("tzcnt %0, %0" : "+r"(bits) : : "cc");
	return bits;
}

/* Which of eight keys are above the key that all of @key are? */
static inline v8_s16 above_8(const int32_t *keys, v4_s32 key)
{
	const v4_s32 *vectors = (const v4_s32 *)(const void *)keys;

	return __builtin_ia32_packssdw128(vectors[0] > key, vectors[1] > key);
}

/* How many of 16 keys in rising order, 16-byte aligned, are @key or less. */
static inline u32 count_16(const int32_t *keys, int32_t key)
{
	v4_s32 all = {key, key, key, key};
	int above = __builtin_ia32_pmovmskb128(
	    __builtin_ia32_packsswb128(above_8(keys, all), above_8(keys + 8, all)));

	return lowest_bit((u32)above | 1u << 16);
}

/* The same of the leaders: 12. */
static inline u32 count_leaders(const int32_t *keys, int32_t key)
{
	v4_s32 all = {key, key, key, key};
	v4_s32 last = ((const v4_s32 *)(const void *)keys)[2] > all;
	int above = __builtin_ia32_pmovmskb128(
	    __builtin_ia32_packsswb128(above_8(keys, all), __builtin_ia32_packssdw128(last, last)));

	return lowest_bit((u32)above | 1u << LEADERS);
}
#else
static inline u32 count_up_to(const int32_t *keys, u32 count, int32_t key)
{
	u32 found = 0;

	for (u32 i = 0; i < count; i++)
		found += keys[i] <= key;
	return found;
}

static inline u32 count_16(const int32_t *keys, int32_t key)
{
	return count_up_to(keys, GROUP_KEYS, key);
}

static inline u32 count_leaders(const int32_t *keys, int32_t key)
{
	return count_up_to(keys, LEADERS, key);
}
#endif

/* What a search is after. Nodes with the same shift share the short key, and it is loaded without a
 * wait. */
struct wanted_key {
	u64 key;
	u64 shift;
	int32_t short_key;
};

static inline struct wanted_key wanted_key(u64 key)
{
	return (struct wanted_key){.key = key, .short_key = key_shorten(key, 0)};
}

/* The number of keys among the first @count that are @key or less: where short keys are the same.
 */
static inline u32 node_count_exact(const struct ptree_node *node, u64 key, u32 count)
{
	u32 below = 0, above = count;

	while (below < above) {
		u32 middle = (below + above) / 2;

		if (node->keys[middle] <= key)
			below = middle + 1;
		else
			above = middle;
	}
	return below;
}

/* False: all keys are above @wanted. Else *@at is the index of the last that is not. */
static inline bool node_floor(const struct ptree_node *node, struct wanted_key *wanted, u32 *at)
{
	u32 group;

	if (unlikely(node->shift != wanted->shift)) {
		wanted->shift = node->shift;
		wanted->short_key = key_shorten(wanted->key, wanted->shift);
	}
	group = count_leaders(node->leaders, wanted->short_key);
	if (group == 0)
		return false;
	*at = (group - 1) * GROUP_KEYS;
	for (u32 i = 0; i < GROUP_KEYS; i += 8) {
		__builtin_prefetch(&node->ends[*at + i]);
		__builtin_prefetch(&node->values[*at + i]);
	}
	*at += count_16(&node->short_keys[*at], wanted->short_key) - 1;
	if (likely(!node->shift || node->keys[*at] <= wanted->key))
		return true;
	*at = node_count_exact(node, wanted->key, *at);
	return (*at)-- != 0;
}

/* Make the short keys from the keys. */
static inline void node_index(struct ptree_node *node)
{
	u64 last = node->count ? node->keys[node->count - 1u] : 0;

	node->shift = 0;
	while (last >> node->shift > SHORT_MAX)
		node->shift++;
	for (u32 i = 0; i < node->count; i++)
		node->short_keys[i] = (int32_t)(node->keys[i] >> node->shift);
	for (u32 i = node->count; i < FANOUT; i++)
		node->short_keys[i] = SHORT_NONE;
	for (u32 i = 0; i < LEADERS; i++)
		node->leaders[i] = i < PTREE_GROUPS ? node->short_keys[i * GROUP_KEYS] : SHORT_NONE;
}

#endif
