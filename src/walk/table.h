/* Table pages: 512 entries each, with a descriptor, from an arena of 2 MiB chunks. */
#ifndef QUIRE_WALK_TABLE_H
#define QUIRE_WALK_TABLE_H

#include <quire/host.h>

#include "src/base/lock.h"
#include "src/entry/format.h"

/*
 * A chunk is 2 MiB, 2 MiB aligned and resident. Its first pages hold the descriptors of the
 * others, so page and descriptor find each other by arithmetic. What an entry holds of a table is
 * its physical address: entry_table() and entry_table_address() (entry/format.h).
 */
#define CHUNK_BYTES (UINT64_C(2) << 20)

/* One 64-byte descriptor a table page. Fields are the owner's: under mmu_lock, or before the
 * table is linked. */
struct table {
	struct table *next; /* free list, cache, debt */
	u64 *parent;	    /* TDP: entry that points here; NULL for a root */
	gfn_t gfn;	    /* first gfn the table covers */
	u8 level;	    /* of its entries */
	u8 invalid;	    /* a root that is going away */
	u8 nx_disallowed;   /* the guest executes below: no huge leaf here (gfn/level.h) */
	u8 nx_listed;	    /* on the list of such tables */
	u8 as_id;
	u8 shadowed;   /* the table of a shadow page */
	u8 has_mmio;   /* an MMIO entry is or was in it or below */
	u8 root_index; /* a table of a root of several: which, from 1 on */
	struct table *nx_older, *nx_newer;
	u64 reserved_words[2];
};
_Static_assert(sizeof(struct table) == 64, "a chunk's first 32 KiB hold its descriptors");

#define CHUNK_PAGES ((u32)(CHUNK_BYTES / QUIRE_PAGE_SIZE))
#define CHUNK_FIRST_PAGE ((u32)(CHUNK_PAGES * sizeof(struct table) / QUIRE_PAGE_SIZE))

static inline u64 *table_entries(const struct table *table)
{
	u64 address = (u64)(uintptr_t)table;
	u64 chunk = round_down_u64(address, CHUNK_BYTES);

	return (u64 *)(uintptr_t)(chunk + (address - chunk) / sizeof(*table) * QUIRE_PAGE_SIZE);
}

/* The table that holds @entry. */
static inline struct table *table_of(const u64 *entry)
{
	u64 address = (u64)(uintptr_t)entry;
	u64 chunk = round_down_u64(address, CHUNK_BYTES);
	u64 page = (address - chunk) / QUIRE_PAGE_SIZE;

	return (struct table *)(uintptr_t)(chunk + page * sizeof(struct table));
}

/* Index, in a table of entries at @level, of the entry that covers @gfn. */
static inline u32 walk_index(gfn_t gfn, u32 level)
{
	return (u32)(gfn.v >> (QUIRE_TABLE_BITS * (level - 1))) & (QUIRE_TABLE_ENTRIES - 1);
}

/* First gfn of the block that the entry for @gfn at @level covers. */
static inline gfn_t walk_block(gfn_t gfn, u32 level)
{
	return (gfn_t){round_down_u64(gfn.v, level_pages((enum quire_level)level))};
}

/* Where all table pages of a VM come from. */
struct arena {
	struct mutex lock;
	struct table *free GUARDED_BY(lock);
	u64 free_count GUARDED_BY(lock);
	void *chunks GUARDED_BY(lock); /* linked through the descriptor of page 0 */
	u64 chunk_count GUARDED_BY(lock);
	u64 used; /* tables handed out: a statistic */
	const struct quire_host_ops *host;
	void *host_ctx;
	const struct entry_format *format; /* with the addresses of its tables */
	/* Roots of several tables, which stay together: linked by the first of each. */
	struct table *free_roots GUARDED_BY(lock);
	u32 root_tables;
};

void arena_init(struct arena *arena, const struct quire_host_ops *host, void *host_ctx,
		const struct entry_format *format);
/* Tables handed out, and what the host gave for all: each by itself is right. Any lock. */
u64 arena_used(const struct arena *arena);
u64 arena_taken_bytes(struct arena *arena);
/* Every table must be back. */
void arena_destroy(struct arena *arena);

/* A few tables in hand, taken before a lock that forbids sleeping. */
struct table_cache {
	struct table *tables;
	u32 count;
	u32 exhausted; /* the last fill found no memory */
};

/* Have at least @want tables in @cache: -ENOMEM when there are fewer afterwards. May sleep. */
must_check int table_cache_refill(struct table_cache *cache, struct arena *arena, u32 want);
must_check static inline int table_cache_fill(struct table_cache *cache, struct arena *arena,
					      u32 want)
{
	return likely(cache->count >= want) ? 0 : table_cache_refill(cache, arena, want);
}
/* One table; NULL when the cache is empty. Its entries hold anything. */
struct table *table_cache_take(struct table_cache *cache);
void table_cache_put(struct table_cache *cache, struct table *table);
/* Give all of them back. */
void table_cache_drain(struct table_cache *cache, struct arena *arena);
/* Give a list of @count tables, linked by next, back. */
void arena_free_list(struct arena *arena, struct table *tables, u64 count);

/* The first table of a root of several, which the others follow. NULL: no memory. May sleep. */
struct table *arena_take_root(struct arena *arena);
void arena_free_root(struct arena *arena, struct table *root);

/* Every entry of @table becomes @value; no other thread can see the table yet. */
void table_fill(struct table *table, u64 value);

#endif
