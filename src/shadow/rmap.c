/* Sets of entries: those that map a gfn, those that point to a shadow page. */
#include "src/shadow/internal.h"

#include "src/base/assert.h"
#include "src/vm/locks.h"
#include "src/walk/range.h"

/* In a head: it points to a descriptor, not to the only entry. */
#define CHAIN UINT64_C(1)

u64 rmap_lock(u64 *head)
{
	CHECK(lock_rank_is_held(RANK_MMU) || base_self()->nesting);
	for (unsigned int turn = 0;; turn++) {
		u64 seen = rmap_read(head);

		if (!seen || atomic_cmpxchg_acquire_u64(head, &seen, seen | RMAP_LOCKED))
			return seen;
		base_platform->relax(turn);
	}
}

void rmap_unlock(u64 *head, u64 value)
{
	CHECK((atomic_load_relaxed_u64(head) & RMAP_LOCKED) || !atomic_load_relaxed_u64(head));
	CHECK(!(value & RMAP_LOCKED));
	atomic_store_release_u64(head, value);
}

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

static u64 **find_word(struct rmap_object *object, const u64 *entry)
{
	for (; object; object = object->more)
		for (u32 i = 0; i < object->count; i++)
			if (object->entries[i] == entry)
				return &object->entries[i];
	return NULL;
}

/* Entries go into the first object; a full one is put behind a new one. */
u32 rmap_add(u64 *head, u64 *entry, struct object_cache *descriptors)
{
	u64 value = rmap_read(head);
	struct rmap_object *object = chain_of(value), *more = object;

	CHECK(value != (u64)(uintptr_t)entry && !find_word(object, entry));
	if (!value) {
		rmap_unlock(head, (u64)(uintptr_t)entry);
		return 1;
	}
	if (!object || object->count == RMAP_OBJECT_ENTRIES) {
		object = object_take(descriptors);
		if (!object)
			return 0;
		object->more = more;
		object->below = more ? more->count + more->below : 0;
		if (!more)
			object->entries[object->count++] = (u64 *)(uintptr_t)value;
	}
	/* The value is known: it changes under mmu_lock alone. */
	(void)!rmap_lock(head);
	object->entries[object->count++] = entry;
	CHECK(object->count <= RMAP_OBJECT_ENTRIES);
	rmap_unlock(head, head_of(object));
	return object->count + object->below;
}

/* The last entry of the first object fills the hole. */
int rmap_remove(u64 *head, const u64 *entry, struct object_cache *freed)
{
	u64 value = rmap_lock(head);
	struct rmap_object *first = chain_of(value);
	bool single = value == (u64)(uintptr_t)entry;
	u64 **word = first ? find_word(first, entry) : NULL;

	if (!word) {
		rmap_unlock(head, single ? 0 : value);
		return !single;
	}
	CHECK(first->count && first->count <= RMAP_OBJECT_ENTRIES);
	CHECK(!first->more == !first->below);
	*word = first->entries[--first->count];
	CHECK(!find_word(first, entry));
	if (first->count) {
		rmap_unlock(head, value);
		return 0;
	}
	rmap_unlock(head, first->more ? head_of(first->more) : 0);
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

u64 *rmap_first(struct rmap_iter *iter, u64 head)
{
	iter->object = chain_of(head);
	iter->index = 0;
	return iter->object ? rmap_next(iter) : (u64 *)(uintptr_t)head;
}

u64 *rmap_next(struct rmap_iter *iter)
{
	if (iter->object && iter->index == iter->object->count) {
		iter->object = iter->object->more;
		iter->index = 0;
	}
	return iter->object ? iter->object->entries[iter->index++] : NULL;
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
	mmu_assert_exclusive(change->vm);
	return sparse_make(heads_of(change->shadow, page, level), block_of(gfn, level),
			   change->rmaps);
}
