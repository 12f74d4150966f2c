/* Sets of entries: who maps a gfn, who points to a shadow page. */
#include "src/shadow/internal.h"

#include "src/walk/range.h"

#define CHAIN UINT64_C(1)

static struct rmap_object *chain_of(u64 head)
{
	return head & CHAIN ? (struct rmap_object *)(uintptr_t)(head & ~CHAIN) : NULL;
}

static u64 head_of(const struct rmap_object *object)
{
	return (u64)(uintptr_t)object | CHAIN;
}

u32 rmap_count(u64 head)
{
	const struct rmap_object *object = chain_of(head);

	if (!object)
		return head != 0;
	return object->count + object->below;
}

/* Entries go into the first object; a full one is put behind a new one. */
u32 rmap_add(u64 *head, u64 *entry, struct object_cache *descriptors)
{
	struct rmap_object *object = chain_of(*head), *more = object;

	if (!*head) {
		*head = (u64)(uintptr_t)entry;
		return 1;
	}
	if (!object || object->count == RMAP_OBJECT_ENTRIES) {
		object = object_take(descriptors);
		if (!object)
			return 0;
		if (more) {
			object->more = more;
			object->below = more->count + more->below;
		} else {
			object->entries[object->count++] = (u64 *)(uintptr_t)*head;
		}
		*head = head_of(object);
	}
	object->entries[object->count++] = entry;
	return object->count + object->below;
}

static u64 **find_place(struct rmap_object *object, const u64 *entry)
{
	for (; object; object = object->more)
		for (u32 i = 0; i < object->count; i++)
			if (object->entries[i] == entry)
				return &object->entries[i];
	return NULL;
}

/* The last entry of the first object fills the hole. */
int rmap_remove(u64 *head, const u64 *entry, struct object_cache *freed)
{
	struct rmap_object *first = chain_of(*head);
	u64 **place;

	if (!first) {
		if (*head != (u64)(uintptr_t)entry)
			return 1;
		*head = 0;
		return 0;
	}
	place = find_place(first, entry);
	if (!place)
		return 1;
	*place = first->entries[--first->count];
	if (first->count)
		return 0;
	*head = first->more ? head_of(first->more) : 0;
	object_put(freed, first);
	return 0;
}

u64 *rmap_any(u64 head)
{
	const struct rmap_object *object = chain_of(head);

	return object ? object->entries[0] : (u64 *)(uintptr_t)head;
}

u64 *rmap_at(u64 head, u32 index)
{
	const struct rmap_object *object = chain_of(head);

	if (!object)
		return (u64 *)(uintptr_t)head;
	while (index >= object->count) {
		index -= object->count;
		object = object->more;
	}
	return object->entries[index];
}

static struct sparse *heads_of(struct shadow *shadow, const struct shadow_page *page, u32 level)
{
	return &shadow->rmaps[role_as(page->role)][level - 1];
}

static u64 block_of(gfn_t gfn, u32 level)
{
	return gfn.v / level_pages((enum quire_level)level);
}

u64 *rmap_head(struct shadow *shadow, const struct shadow_page *page, gfn_t gfn, u32 level)
{
	return sparse_find(heads_of(shadow, page, level), block_of(gfn, level));
}

u64 *rmap_head_make(const struct shadow_change *change, const struct shadow_page *page, gfn_t gfn,
		    u32 level)
{
	return sparse_make(heads_of(change->shadow, page, level), block_of(gfn, level),
			   change->rmaps);
}
