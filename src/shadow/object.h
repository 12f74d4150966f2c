/* Objects of 128 bytes, carved from table pages: for what must be at hand under mmu_lock. */
#ifndef QUIRE_SHADOW_OBJECT_H
#define QUIRE_SHADOW_OBJECT_H

#include "src/walk/table.h"

#define OBJECT_BYTES 128u

struct object {
	struct object *next;
};

/* Objects in hand; guarded as its owner says. Zero it to start. */
struct object_cache {
	struct object *objects;
	u32 count; /* relaxed reads by any thread */
};

/* The table pages that objects were carved from: they go back together, at the end. */
struct object_slabs {
	struct arena *arena;
	struct table *tables; /* (a) grows at the head */
	u64 count;	      /* (a) */
};

/* Have at least @want objects in @cache: -ENOMEM when there are fewer afterwards. May sleep. */
must_check int object_cache_fill(struct object_cache *cache, struct object_slabs *slabs, u32 want);
/* An object, all zeroes; NULL when there is none. */
void *object_take(struct object_cache *cache);
void object_put(struct object_cache *cache, void *memory);
/* All of @from to @to. */
void object_cache_move(struct object_cache *to, struct object_cache *from);
/* No object is in use any more. */
void object_slabs_free(struct object_slabs *slabs);

#endif
