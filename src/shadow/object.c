/* Carving objects from table pages. */
#include "src/shadow/object.h"

#include <string.h>

#include "src/base/assert.h"

/* Its owner alone writes it; shadow_reserve() reads it without the owner's lock, for a hint. */
static void set_count(struct object_cache *cache, u32 count)
{
	CHECK(!cache->objects == !count);
	atomic_store_relaxed_u32(&cache->count, count);
}

static void push_slab(struct object_slabs *slabs, struct table *table)
{
	struct table *head = atomic_load_relaxed_ptr(&slabs->tables);

	CHECK(table != head);
	do {
		table->next = head;
	} while (!atomic_cmpxchg_relaxed_ptr(&slabs->tables, &head, table));
	atomic_add_relaxed_u64(&slabs->count, 1);
}

int object_cache_fill(struct object_cache *cache, struct object_slabs *slabs, u32 want)
{
	struct table_cache tables = {0};
	int err = 0;

	while (cache->count < want) {
		struct table *table;
		char *page;

		err = table_cache_fill(&tables, slabs->arena, 1);
		if (err)
			break;
		table = table_cache_take(&tables);
		page = (char *)table_entries(table);
		push_slab(slabs, table);
		for (u32 at = 0; at < QUIRE_PAGE_SIZE; at += OBJECT_BYTES)
			object_put(cache, page + at);
	}
	table_cache_drain(&tables, slabs->arena);
	CHECK(err || cache->count >= want);
	return err;
}

void *object_take(struct object_cache *cache)
{
	struct object *object = cache->objects;

	CHECK(!object == !cache->count);
	if (!object)
		return NULL;
	CHECK(is_aligned_u64((u64)(uintptr_t)object, OBJECT_BYTES));
	cache->objects = object->next;
	set_count(cache, cache->count - 1);
	memset(object, 0, OBJECT_BYTES);
	return object;
}

void object_put(struct object_cache *cache, void *memory)
{
	struct object *object = memory;

	CHECK(is_aligned_u64((u64)(uintptr_t)memory, OBJECT_BYTES));
	CHECK(object != cache->objects && !cache->objects == !cache->count);
	object->next = cache->objects;
	cache->objects = object;
	set_count(cache, cache->count + 1);
}

void object_cache_move(struct object_cache *to, struct object_cache *from)
{
	struct object **link = &from->objects;

	CHECK(to != from && !from->objects == !from->count);
	CHECK(!to->objects == !to->count);
	/* The few that come stand before the many that are there. */
	while (*link)
		link = &(*link)->next;
	*link = to->objects;
	to->objects = from->objects;
	set_count(to, to->count + from->count);
	*from = (struct object_cache){0};
}

void object_slabs_free(struct object_slabs *slabs)
{
	CHECK(!slabs->tables == !slabs->count);
	arena_free_list(slabs->arena, slabs->tables, slabs->count);
	slabs->tables = NULL;
	slabs->count = 0;
}
