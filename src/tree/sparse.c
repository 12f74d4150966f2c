/* Sparse arrays of words: radix trees of table pages. */
#include "src/tree/sparse.h"

/* Whose pages, and where they come from or go. */
struct page_source {
	struct sparse *sparse;
	struct table_cache *tables;
};

static u64 *take_page(void *ctx)
{
	const struct page_source *source = ctx;
	struct table *table = table_cache_take(source->tables);

	if (!table)
		return NULL;
	table_fill(table, 0);
	source->sparse->pages++;
	return table_entries(table);
}

static void put_page(void *ctx, u64 *node)
{
	const struct page_source *source = ctx;

	source->sparse->pages--;
	table_cache_put(source->tables, table_of(node));
}

u64 *sparse_find(const struct sparse *sparse, u64 index)
{
	return index < SPARSE_LIMIT ? radix_find(&sparse->root, SPARSE_DEPTH, index) : NULL;
}

u64 *sparse_make(struct sparse *sparse, u64 index, struct table_cache *tables)
{
	struct page_source source = {sparse, tables};
	const struct radix_memory memory = {take_page, put_page, &source};

	return index < SPARSE_LIMIT ? radix_make(&sparse->root, SPARSE_DEPTH, index, &memory)
				    : NULL;
}

u64 *sparse_next(const struct sparse *sparse, u64 *index, u64 end)
{
	return radix_next(&sparse->root, SPARSE_DEPTH, index, min_u64(end, SPARSE_LIMIT));
}

void sparse_free(struct sparse *sparse, struct arena *arena)
{
	struct table_cache freed = {0};
	struct page_source source = {sparse, &freed};
	const struct radix_memory memory = {take_page, put_page, &source};

	radix_free(&sparse->root, SPARSE_DEPTH, &memory, NULL);
	table_cache_drain(&freed, arena);
}
