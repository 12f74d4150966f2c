/* The arena of table pages. */
#include "src/walk/table.h"

#include <errno.h>

#include "src/base/assert.h"

/* Tables moved from the arena to a cache at once, so that a fault rarely takes the arena's lock. */
#define CACHE_BATCH 16u

void arena_init(struct arena *arena, const struct quire_host_ops *host, void *host_ctx,
		const struct entry_tables *addresses)
{
	CHECK(!arena->free && !arena->chunks);
	mutex_init(&arena->lock, RANK_ARENA);
	arena->host = host;
	arena->host_ctx = host_ctx;
	arena->addresses = addresses;
}

void arena_destroy(struct arena *arena)
{
	void *chunk = arena->chunks;

	CHECK(arena->used == 0);
	CHECK(arena->free_count == arena->chunk_count * (CHUNK_PAGES - CHUNK_FIRST_PAGE));
	while (chunk) {
		void *next = ((struct table *)chunk)->next;

		arena->host->chunk_free(arena->host_ctx, chunk);
		chunk = next;
	}
	arena->chunks = NULL;
}

/* Can an entry hold the address of each table of @chunk? */
static bool is_addressable(const struct arena *arena, const struct table *chunk)
{
	for (u32 page = CHUNK_FIRST_PAGE; page < CHUNK_PAGES; page++) {
		u64 address = entry_table_address(arena->addresses, table_entries(&chunk[page]));

		if (address >= ENTRY_ADDRESS_LIMIT || address % QUIRE_PAGE_SIZE)
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

/* Add a chunk's pages to the free list, in rising order of address. */
static int arena_grow(struct arena *arena) REQUIRES(&arena->lock)
{
	struct table *chunk = arena->host->chunk_alloc(arena->host_ctx);

	CHECK(lock_is_held(&arena->lock, LOCK_EXCLUSIVE));
	CHECK(!arena->free);
	if (!chunk)
		return -ENOMEM;
	if (!is_addressable(arena, chunk)) {
		arena->host->chunk_free(arena->host_ctx, chunk);
		return -ENOMEM;
	}
	chunk->next = arena->chunks;
	arena->chunks = chunk;
	arena->chunk_count++;
	for (u32 page = CHUNK_PAGES; page-- > CHUNK_FIRST_PAGE;) {
		chunk[page].next = arena->free;
		arena->free = &chunk[page];
	}
	arena->free_count += CHUNK_PAGES - CHUNK_FIRST_PAGE;
	CHECK(list_length(arena->free) == arena->free_count);
	return 0;
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
			err = arena_grow(arena);
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
		CHECK(!table->nx_listed);
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
static void poison_table(struct table *table)
{
#ifdef QUIRE_CHECK
	table_fill(table, UINT64_C(0xdead00000807));
#else
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
	for (poison_table(last); last->next; poison_table(last))
		last = last->next;
	mutex_lock(&arena->lock);
	last->next = arena->free;
	arena->free = tables;
	arena->free_count += count;
	mutex_unlock(&arena->lock);
	atomic_add_relaxed_u64(&arena->used, -count);
}

void table_cache_drain(struct table_cache *cache, struct arena *arena)
{
	CHECK(!cache->tables == !cache->count);
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
