/* The arena of table pages. */
#include "src/walk/table.h"

#include <errno.h>

#include "src/base/assert.h"

/* Tables moved from the arena to a cache at once, so that a fault rarely takes the arena's lock. */
#define CACHE_BATCH 16u

void arena_init(struct arena *arena, const struct quire_host_ops *host, void *host_ctx,
		const struct entry_format *format)
{
	CHECK(!arena->free && !arena->chunks);
	mutex_init(&arena->lock, RANK_ARENA);
	arena->host = host;
	arena->host_ctx = host_ctx;
	arena->format = format;
	arena->root_tables = entry_root_tables(format);
}

u64 arena_used(const struct arena *arena)
{
	return atomic_load_relaxed_u64(&arena->used);
}

u64 arena_taken_bytes(struct arena *arena)
{
	u64 chunks;

	mutex_lock(&arena->lock);
	chunks = arena->chunk_count;
	CHECK(arena->free_count <= chunks * (CHUNK_PAGES - CHUNK_FIRST_PAGE));
	mutex_unlock(&arena->lock);
	return chunks * CHUNK_BYTES;
}

void arena_destroy(struct arena *arena)
{
	void *chunk = arena->chunks;

	CHECK(arena->used == 0);
	while (arena->free_roots) {
		arena->free_count += arena->root_tables;
		arena->free_roots = arena->free_roots->next;
	}
	CHECK(arena->free_count == arena->chunk_count * (CHUNK_PAGES - CHUNK_FIRST_PAGE));
	while (chunk) {
		void *next = ((struct table *)chunk)->next;

		arena->host->chunk_free(arena->host_ctx, chunk);
		chunk = next;
	}
}

/* Can an entry hold the address of each table of @chunk? */
static bool is_addressable(const struct arena *arena, const struct table *chunk)
{
	for (u32 page = CHUNK_FIRST_PAGE; page < CHUNK_PAGES; page++) {
		u64 address =
		    entry_table_address(&arena->format->tables, table_entries(&chunk[page]));

		if (address >> QUIRE_PAGE_SHIFT >= arena->format->frames ||
		    address % QUIRE_PAGE_SIZE)
			return false;
	}
	return true;
}

#ifdef QUIRE_CHECK
static u64 list_length(const struct table *table)
{
	u64 length = 0;

	for (; table; table = table->next)
		length++;
	return length;
}
#endif

/* Add the tables [first, end) of @chunk to the free list, in rising order of address. */
static void free_pages(struct arena *arena, struct table *chunk, u32 first, u32 end)
    REQUIRES(&arena->lock)
{
	CHECK(lock_is_held(&arena->lock, LOCK_EXCLUSIVE));
	CHECK(first <= end && end <= CHUNK_PAGES);
	for (u32 page = end; page-- > first;) {
		chunk[page].next = arena->free;
		arena->free = &chunk[page];
	}
	arena->free_count += end - first;
	CHECK(list_length(arena->free) == arena->free_count);
}

/* The processor wants a root in one piece, aligned to its size. */
static bool can_be_root(const struct arena *arena, const struct table *first)
{
	const struct entry_tables *tables = &arena->format->tables;
	u64 address = entry_table_address(tables, table_entries(first));

	for (u32 i = 1; i < arena->root_tables; i++)
		if (entry_table_address(tables, table_entries(&first[i])) !=
		    address + i * QUIRE_PAGE_SIZE)
			return false;
	return address % (arena->root_tables * QUIRE_PAGE_SIZE) == 0;
}

/* The first table of @chunk that can begin a root of several; CHUNK_PAGES: none. */
static u32 find_root(const struct arena *arena, const struct table *chunk)
{
	u32 page = CHUNK_FIRST_PAGE;

	while (page + arena->root_tables <= CHUNK_PAGES && !can_be_root(arena, &chunk[page]))
		page++;
	return page + arena->root_tables <= CHUNK_PAGES ? page : CHUNK_PAGES;
}

/* Add a chunk's tables to the free list, but for *@root where one is wanted. */
static int arena_grow(struct arena *arena, struct table **root) REQUIRES(&arena->lock)
{
	struct table *chunk = arena->host->chunk_alloc(arena->host_ctx);
	u32 page = CHUNK_PAGES;

	CHECK(lock_is_held(&arena->lock, LOCK_EXCLUSIVE));
	if (!chunk)
		return -ENOMEM;
	if (root && is_addressable(arena, chunk))
		page = find_root(arena, chunk);
	if (root ? page == CHUNK_PAGES : !is_addressable(arena, chunk)) {
		arena->host->chunk_free(arena->host_ctx, chunk);
		return -ENOMEM;
	}
	chunk->next = arena->chunks;
	arena->chunks = chunk;
	arena->chunk_count++;
	if (root) {
		*root = &chunk[page];
		free_pages(arena, chunk, page + arena->root_tables, CHUNK_PAGES);
	}
	free_pages(arena, chunk, CHUNK_FIRST_PAGE, page);
	return 0;
}

struct table *arena_take_root(struct arena *arena)
{
	struct table *root;

	CHECK(!base_self()->nesting && !lock_rank_is_held(RANK_MMU));
	CHECK(arena->root_tables > 1);
	mutex_lock(&arena->lock);
	root = arena->free_roots;
	if (root)
		arena->free_roots = root->next;
	else if (arena_grow(arena, &root))
		root = NULL;
	mutex_unlock(&arena->lock);
	if (root)
		atomic_add_relaxed_u64(&arena->used, arena->root_tables);
	return root;
}

int table_cache_refill(struct table_cache *cache, struct arena *arena, u32 want)
{
	int err = 0;
	u32 target = want + CACHE_BATCH, taken = 0;

	CHECK(!base_self()->nesting && !lock_rank_is_held(RANK_MMU));
	CHECK(list_length(cache->tables) == cache->count);
	mutex_lock(&arena->lock);
	while (cache->count < target) {
		struct table *table = arena->free;

		CHECK(!table == !arena->free_count);
		if (!table) {
			if (cache->count >= want)
				break;
			err = arena_grow(arena, NULL);
			if (err)
				break;
			continue;
		}
		arena->free = table->next;
		arena->free_count--;
		table_cache_put(cache, table);
		taken++;
	}
	mutex_unlock(&arena->lock);
	atomic_add_relaxed_u64(&arena->used, taken);
	CHECK(err || cache->count >= want);
	return err;
}

struct table *table_cache_take(struct table_cache *cache)
{
	struct table *table = cache->tables;

	CHECK(!table == !cache->count);
	if (table) {
		/* Tables of a root of several come from arena_take_root() and go back there. */
		CHECK(!table->nx_listed && !table->root_index);
		cache->tables = table->next;
		cache->count--;
		table->has_mmio = 0;
	}
	return table;
}

void table_cache_put(struct table_cache *cache, struct table *table)
{
	CHECK(table != cache->tables);
	CHECK(!table->nx_listed);
	CHECK(!cache->tables == !cache->count);
	table->next = cache->tables;
	cache->tables = table;
	cache->count++;
}

/* Check builds: a walker of a freed table, a processor too, goes to an address without memory. */
static void poison_table(const struct arena *arena, struct table *table)
{
#ifdef QUIRE_CHECK
	const struct entry_format *f = arena->format;

	table_fill(table, entry_place_pfn(f, (pfn_t){0xdead00000}) | f->present | f->readable |
			      f->writable);
#else
	(void)arena;
	(void)table;
#endif
}

void arena_free_list(struct arena *arena, struct table *tables, u64 count)
{
	struct table *last = tables;

	if (!tables)
		return;
	CHECK(list_length(tables) == count);
	CHECK(atomic_load_relaxed_u64(&arena->used) >= count);
	for (poison_table(arena, last); last->next; poison_table(arena, last))
		last = last->next;
	mutex_lock(&arena->lock);
	last->next = arena->free;
	arena->free = tables;
	arena->free_count += count;
	mutex_unlock(&arena->lock);
	atomic_add_relaxed_u64(&arena->used, -count);
}

void arena_free_root(struct arena *arena, struct table *root)
{
	CHECK(root->root_index == 1);
	for (u32 i = 0; i < arena->root_tables; i++)
		poison_table(arena, &root[i]);
	mutex_lock(&arena->lock);
	CHECK(root != arena->free_roots);
	root->next = arena->free_roots;
	arena->free_roots = root;
	mutex_unlock(&arena->lock);
	atomic_add_relaxed_u64(&arena->used, -(u64)arena->root_tables);
}

void table_cache_drain(struct table_cache *cache, struct arena *arena)
{
	CHECK(!cache->tables == !cache->count);
	CHECK(list_length(cache->tables) == cache->count);
	arena_free_list(arena, cache->tables, cache->count);
	cache->tables = NULL;
	cache->count = 0;
}

void table_fill(struct table *table, u64 value)
{
	u64 *entries = table_entries(table);

	for (u32 i = 0; i < QUIRE_TABLE_ENTRIES; i++)
		entries[i] = value;
}
