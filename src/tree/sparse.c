/* Sparse arrays of words. */
#include "src/tree/sparse.h"

static u32 index_at(u64 index, u32 depth)
{
	return (u32)(index >> (QUIRE_TABLE_BITS * (SPARSE_DEPTH - 1 - depth))) &
	       (QUIRE_TABLE_ENTRIES - 1);
}

static struct table *below(u64 word)
{
	return (struct table *)(uintptr_t)word;
}

/* What is on a page that another thread has just made is seen with it. */
static struct table *root_of(const struct sparse *sparse)
{
	return atomic_load_acquire_ptr(&sparse->root);
}

u64 *sparse_find(const struct sparse *sparse, u64 index)
{
	const struct table *table = root_of(sparse);

	if (index >= SPARSE_LIMIT)
		return NULL;
	for (u32 depth = 0; table; depth++) {
		u64 *word = &table_entries(table)[index_at(index, depth)];

		if (depth == SPARSE_DEPTH - 1)
			return word;
		table = below(atomic_load_acquire_u64(word));
	}
	return NULL;
}

static struct table *make_page(struct sparse *sparse, struct table_cache *tables)
{
	struct table *table = table_cache_take(tables);

	if (!table)
		return NULL;
	table_fill(table, 0);
	sparse->pages++;
	return table;
}

u64 *sparse_make(struct sparse *sparse, u64 index, struct table_cache *tables)
{
	struct table *table = sparse->root;

	if (index >= SPARSE_LIMIT)
		return NULL;
	if (!table) {
		table = make_page(sparse, tables);
		atomic_store_release_ptr(&sparse->root, table);
	}
	for (u32 depth = 0; table; depth++) {
		u64 *word = &table_entries(table)[index_at(index, depth)];

		if (depth == SPARSE_DEPTH - 1)
			return word;
		if (!*word)
			atomic_store_release_u64(word, (u64)(uintptr_t)make_page(sparse, tables));
		table = below(*word);
	}
	return NULL;
}

/* From @word on, for as long as its page goes on. */
static u64 *next_in_row(u64 *word, u64 *index, u64 end)
{
	do {
		if (atomic_load_acquire_u64(word))
			return word;
		word++;
	} while (++*index < end && *index % QUIRE_TABLE_ENTRIES);
	return NULL;
}

u64 *sparse_next(const struct sparse *sparse, u64 *index, u64 end)
{
	const struct table *root = root_of(sparse);

	end = min_u64(end, SPARSE_LIMIT);
	while (root && *index < end) {
		const struct table *table = root;

		for (u32 depth = 0;; depth++) {
			u64 *word = &table_entries(table)[index_at(*index, depth)];
			u64 span = UINT64_C(1) << (QUIRE_TABLE_BITS * (SPARSE_DEPTH - 1 - depth));
			u64 value = atomic_load_acquire_u64(word);

			if (depth == SPARSE_DEPTH - 1) {
				word = next_in_row(word, index, end);
				if (word)
					return word;
				break;
			}
			if (!value) {
				*index = round_down_u64(*index, span) + span;
				break;
			}
			table = below(value);
		}
	}
	return NULL;
}

static void free_below(struct table *table, u32 depth, struct table_cache *freed)
{
	u64 *words = table_entries(table);

	for (u32 i = 0; depth < SPARSE_DEPTH - 1 && i < QUIRE_TABLE_ENTRIES; i++)
		if (words[i])
			free_below(below(words[i]), depth + 1, freed);
	table_cache_put(freed, table);
}

void sparse_free(struct sparse *sparse, struct arena *arena)
{
	struct table_cache freed = {0};

	if (sparse->root)
		free_below(sparse->root, 0, &freed);
	table_cache_drain(&freed, arena);
	sparse->root = NULL;
	sparse->pages = 0;
}
