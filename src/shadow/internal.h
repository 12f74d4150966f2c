/* What the files of the shadow MMU share, by file, with the lock that each group needs. */
#ifndef QUIRE_SHADOW_INTERNAL_H
#define QUIRE_SHADOW_INTERNAL_H

#include "src/shadow/shadow.h"

/*
 * Shadow tables are what the processor walks for L2: NPT, whatever L1 runs on. These are its bits,
 * which the compiler knows; vm->shadow_format, which it does not, has the way to a lower table too.
 */
#define SHADOW_BITS (&entry_npt)
/* In that format: user accesses are allowed. */
#define SHADOW_USER (UINT64_C(1) << 2)

/*
 * With CR0.WP clear a supervisor writes to any page. The processor runs with it set, so such a
 * page is shadowed as a writable one of the supervisor's, which allows more than the path.
 */
static inline bool role_ignores_wp(u32 role)
{
	return !(role & (ROLE_WP | ROLE_GUEST_MODE));
}

/* --- mmu_lock exclusive --- */

/*
 * What was read of L1's tables may be old from here on. The turn has no order of its own: what
 * changed them, or the slots, came before mmu_lock was taken, which is a full fence. Partner: the
 * acquire load in shadow_walk_guest().
 */
static inline void shadow_end_turn(struct shadow *shadow)
{
	mmu_assert_exclusive(shadow->vm);
	atomic_store_relaxed_u64(&shadow->write_turn, shadow->write_turn + 1);
}

/* --- link.c: mmu_lock exclusive --- */

/* Make *@entry, of a table at @level, @new; count the leaf and owe the flush. What was there. */
u64 shadow_store(const struct shadow_change *change, u64 *entry, u32 level, u64 new);

/* --- rmap.c: sets of entries --- */

#define RMAP_OBJECT_ENTRIES 14u

struct rmap_object {
	u64 *entries[RMAP_OBJECT_ENTRIES];
	struct rmap_object *more; /* full ones */
	u32 count;		  /* in @entries */
	u32 below;		  /* in @more and on */
};
_Static_assert(sizeof(struct rmap_object) == OBJECT_BYTES, "a descriptor is one object");

/* In a head: aging, without mmu_lock, goes through the set, or a holder of mmu_lock changes it. */
#define RMAP_LOCKED UINT64_C(2)

/*
 * A set is changed under mmu_lock exclusive and read under it, or, to age what it holds, without:
 * with the lock in the head itself, which changers of the set take besides. So an entry that is in
 * the set stays a word of a shadow table until the set is unlocked. The lock is held briefly,
 * a waiter spins, and its holder waits for nothing.
 */

/* The head, for holders of mmu_lock. */
static inline u64 rmap_read(const u64 *head)
{
	return atomic_load_relaxed_u64(head) & ~RMAP_LOCKED;
}
/*
 * The head, locked; 0: empty, and not locked. An acquire. With mmu_lock exclusive, or in a read
 * section without it.
 */
must_check u64 rmap_lock(u64 *head);
/* A release: the head is @value from here on. */
void rmap_unlock(u64 *head, u64 value);
/* The entries of @head, which is locked and not empty. NULL ends them. */
struct rmap_iter {
	const struct rmap_object *object;
	u32 index;
};
u64 *rmap_first(struct rmap_iter *iter, u64 head);
u64 *rmap_next(struct rmap_iter *iter);

/* Add @entry; the number of entries then, or 0 when an object was needed and there is none. */
must_check u32 rmap_add(u64 *head, u64 *entry, struct object_cache *descriptors);
/* Remove @entry, which is in it; freed descriptors go to @freed. Nonzero: it was not. */
must_check int rmap_remove(u64 *head, const u64 *entry, struct object_cache *freed);
/* Any entry; NULL when there is none. */
u64 *rmap_any(u64 head);
u32 rmap_count(u64 head);
/* Entry @index of rmap_count(): for loops that change nothing. */
u64 *rmap_at(u64 head, u32 index);

/* The head for the block of @gfn at @level; NULL: there is none. */
u64 *rmap_head(struct shadow *shadow, const struct shadow_page *page, gfn_t gfn, u32 level);

/* --- rmap.c: mmu_lock exclusive --- */

/* The same, made when there is none. NULL: no memory for it. */
u64 *rmap_head_make(const struct shadow_change *change, const struct shadow_page *page, gfn_t gfn,
		    u32 level);

/* --- page.c --- */

/* L1's gfn of leaf @index of @page. */
gfn_t shadow_leaf_gfn(const struct shadow_page *page, u32 index);
/* What L1 allows for leaf @index. */
u32 shadow_leaf_access(const struct shadow_page *page, u32 index);
static inline u32 shadow_index_of(const u64 *entry)
{
	return (u32)((uintptr_t)entry / sizeof(u64)) & (QUIRE_TABLE_ENTRIES - 1);
}
static inline int shadow_page_is_obsolete(const struct shadow *shadow,
					  const struct shadow_page *page)
{
	return page->orphan || page->generation != shadow->vm->mmu_valid_gen;
}

/* May vCPUs have loaded it? What a PAE root leads to goes without their hearing of it. */
static inline int shadow_page_is_root(const struct shadow_page *page)
{
	return page->kept && role_level(page->role) > SHADOW_PAE_LEVEL;
}

/* Does @page shadow L1's table at @gfn? */
static inline int shadow_page_follows(const struct shadow_page *page, u32 as_id, gfn_t gfn)
{
	return page->gfn.v == gfn.v && !(page->role & ROLE_DIRECT) && role_as(page->role) == as_id;
}

/* A change that takes nothing: for zapping and protecting. */
static inline struct shadow_change shadow_taking(struct quire_vm *vm, struct flush_debt *debt)
{
	return (struct shadow_change){.vm = vm, .shadow = shadow_of(vm), .debt = debt};
}

static inline u32 shadow_bucket(gfn_t gfn)
{
	return (u32)((gfn.v * UINT64_C(0x9e3779b97f4a7c15)) >> 52);
}
_Static_assert(SHADOW_BUCKETS == 1u << 12, "shadow_bucket() gives twelve bits");

/* --- map.c: mmu_lock exclusive --- */

/* The page that shadows L1's table at @level of @walk's path. */
struct shadow_key shadow_key_of(const struct quire_vcpu *vcpu, const struct shadow_walk *walk,
				u32 level);
/*
 * The page of @key, path->pages[@level]: nonzero when it was made, or -ENOMEM. Follows L1's table
 * from here on, if it did not; path->fresh and .count grow.
 */
must_check int shadow_page_follow(const struct shadow_change *change, const struct shadow_key *key,
				  struct shadow_path *path, u32 level);

/* --- root.c: mmu_lock exclusive --- */

/* The PAE root that @vcpu has loaded; NULL: it must load it first. */
struct shadow_page *shadow_pae_root_of(const struct quire_vcpu *vcpu);

/* --- page.c: mmu_lock exclusive --- */

/* @page, which has memory, is that of @key; its table is empty. */
void shadow_page_init(const struct shadow_change *change, struct shadow_page *page,
		      const struct shadow_key *key);

/* The page of @key; NULL. */
struct shadow_page *shadow_page_find(const struct shadow *shadow, const struct shadow_key *key);
/* Found or made, with *@made then nonzero; NULL when memory ran out. */
struct shadow_page *shadow_page_get(const struct shadow_change *change,
				    const struct shadow_key *key, int *made);
/* No entry leads to @page any more: it is obsolete, and the next to be zapped. */
void shadow_page_orphan(const struct shadow_change *change, struct shadow_page *page);

/* --- link.c: mmu_lock exclusive --- */

/* Empty *@entry with all that hangs on it: a leaf leaves its rmap, a child its parent. */
void shadow_drop(const struct shadow_change *change, u64 *entry);
/* Make *@entry, which is empty, point to @child. Nonzero: no memory. */
must_check int shadow_link(const struct shadow_change *change, u64 *entry,
			   struct shadow_page *child);
/* For the statistic of the longest chain. */
void rmap_note_length(struct quire_vm *vm, u32 length) REQUIRES(&vm->mmu_lock);
/* A leaf to be: what it maps, with which of L1's rights, and the word that the table holds. */
struct shadow_leaf {
	gfn_t gfn;
	u32 access;
	u64 value;
};
/* Put @leaf into *@entry, which is empty. Nonzero: no memory. */
must_check int shadow_add_leaf(const struct shadow_change *change, u64 *entry,
			       const struct shadow_leaf *leaf);

/* --- sync.c: mmu_lock exclusive --- */

/* Does @page lag, or one that is below it? */
int shadow_lags_below(const struct shadow *shadow, const struct shadow_page *page);
/* @page, which is going away, lags no more. */
void shadow_unsync_forget(const struct shadow_change *change, struct shadow_page *page);
/* A page of a higher level follows @gfn from now on: those that lag behind it go. */
void shadow_zap_unsync(const struct shadow_change *change, u32 as_id, gfn_t gfn);

/* --- range.c: mmu_lock exclusive --- */

/* How much more may be done in this hold of the lock. */
struct shadow_piece {
	const struct shadow *shadow;
	u64 changes; /* over when .changes of the VM's shadow MMU gets here */
	u64 heads;   /* that may still be passed over */
};
void shadow_piece_begin(const struct shadow *shadow, struct shadow_piece *piece);
int shadow_piece_is_over(const struct shadow_piece *piece);
/*
 * The first head of @range with entries, from where the walk is: it stays there until the head is
 * empty, or the caller counts range->at up. NULL: the piece is over, or the range is done.
 */
u64 *shadow_range_next(struct shadow_piece *piece, struct shadow_range *range);

/* --- zap.c: mmu_lock exclusive --- */

/* Take away what maps @gfn. */
void shadow_zap_gfn_leaves(const struct shadow_change *change, u32 as_id, gfn_t gfn);

/* Shadow pages that may still be made. */
u64 shadow_available(const struct quire_vm *vm) REQUIRES(&vm->mmu_lock);

#endif
