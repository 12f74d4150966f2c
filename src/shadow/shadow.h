/* The shadow MMU: a guest's own tables composed with the slots; or the slots alone. */
#ifndef QUIRE_SHADOW_SHADOW_H
#define QUIRE_SHADOW_SHADOW_H

#include "src/gfn/track.h"
#include "src/shadow/object.h"
#include "src/vm/check.h"
#include "src/vm/locks.h"
#include "src/vm/vcpu.h"

/*
 * Ownership: struct shadow belongs to the VM, is made with the first nested root and ends with the
 * VM. It owns every shadow page; a shadow page owns its table, the list of the entries that point
 * to it, and its place in hash and list. Everything is under mmu_lock exclusive, but for what the
 * processor does: it walks the tables in guest mode and sets A and D; and for aging, which clears A
 * (age.c). So entries change by compare-exchange (link.c), and a table is freed after a flush.
 *
 * It serves nested guests (L2), whose tables are those of the guest hypervisor (L1). In a VM
 * without the TDP MMU it also serves the guest itself: with direct pages, behind which no table
 * stands, or, on a processor without a second stage, with shadows of the guest's own page tables.
 * What is said of L1's tables and L2's addresses here holds for those and for linear addresses.
 *
 * A shadow page is the counterpart of one of L1's table pages in one role, or (direct) a piece of
 * one of L1's huge mappings. While it lives L1's page is write-tracked (gfn/track.h): a
 * writer drops the shadow page first, so that what is shadowed is what L1's tables say. A
 * page of the lowest level may lag instead (unsync): L1 writes its table freely, and the page is
 * compared with it when L1 next flushes, as a TLB would be (shadow/sync.c).
 *
 *   shadow_page_get()        link                 zap
 *   none ----------> hashed ------> reachable ------------> zapped ------> free
 *                       `---------------------------------^    shadow_commit(): flush
 *
 *            shadow_unsync()            shadow_sync_begin()           shadow_sync_end()
 *   follows ----------------> unsync ----------------------> being synced -------------> follows
 *   (tracked)   L1 may write    ^        tracked, unsync         |
 *                               `--------------------------------'  shadow_unsync(): written again
 *
 * Vcpus load roots without a count, as with TDP roots: root_turn says that a root has gone since,
 * and a vCPU in guest mode is waited for.
 */
#define SHADOW_DIRECT_LEVEL QUIRE_LEVEL_512G
#define SHADOW_PAE_LEVEL QUIRE_LEVEL_1G
#define SHADOW_LEVEL_MAX QUIRE_LEVEL_256T
#define SHADOW_BUCKETS 4096u

/* The role: with the gfn, what a shadow page is for. Bits are laid out as KVM shows them. */
#define ROLE_LEVEL_MASK 0xfu
#define ROLE_4_BYTES (1u << 4) /* entries of L1's, which are 1024 a table */
#define ROLE_QUADRANT_SHIFT 5
#define ROLE_QUADRANT_MASK (3u << ROLE_QUADRANT_SHIFT)
#define ROLE_DIRECT (1u << 7)
#define ROLE_ACCESS_SHIFT 8
#define ROLE_ACCESS_MASK (0xfu << ROLE_ACCESS_SHIFT)
#define ROLE_NX (1u << 13)
#define ROLE_WP (1u << 14)
#define ROLE_SMAP_NOT_WP (1u << 15)
#define ROLE_GUEST_MODE (1u << 17)
#define ROLE_SMEP_NOT_WP (1u << 20)
/* Two that KVM has no use for: what L1's entries mean depends on them, too. */
#define ROLE_PAE (1u << 21)
#define ROLE_4_BYTES_NO_PSE (1u << 22)
#define ROLE_SMM_SHIFT 24
/* What a page need not have in common with the root above it. */
#define ROLE_OF_PAGE (ROLE_LEVEL_MASK | ROLE_QUADRANT_MASK | ROLE_DIRECT | ROLE_ACCESS_MASK)

/* What L1's entries allow; what is present can be read. */
#define ACCESS_READ (1u << 0)
#define ACCESS_WRITE (1u << 1)
#define ACCESS_USER (1u << 2)
#define ACCESS_EXEC (1u << 3)
#define ACCESS_ALL (ACCESS_READ | ACCESS_WRITE | ACCESS_USER | ACCESS_EXEC)

struct shadow_page {
	struct shadow_page *hash_next;
	struct shadow_page *newer, *older; /* the list of all, by age */
	struct table *table;
	struct table *gfns; /* indirect: gfn << 12 | access of each leaf; NULL when direct */
	gfn_t gfn;	    /* of L1's table, or of the first page mapped when direct */
	u32 role;
	u32 generation;
	u64 parents; /* rmap head: the entries that point here */
	u32 tracked; /* counted in gfn_track as a follower */
	u32 unsync;  /* may allow what L1's table has taken back; then on the list of such pages */
	u32 turn;    /* grows each time it becomes unsync */
	u32 writes;  /* of the library's to L1's table since the page was last looked up */
	u64 write_turn;
	u16 orphan; /* lost its last parent: obsolete, and waits at the old end of the list */
	u16 kept;   /* a root, or what a PAE root led to: stays without parents */
	struct shadow_page *unsync_older, *unsync_newer;
};
_Static_assert(sizeof(struct shadow_page) <= OBJECT_BYTES, "a shadow page is one object");

/*
 * Heads of rmaps, by address space, level and index of the block: 0 none, an entry's address, or
 * the address of a chain with bit 0 set. Bit 1 locks the set (rmap.c).
 */
struct shadow {
	struct quire_vm *vm; /* pages of another generation than the VM's are obsolete */
	struct shadow_page *buckets[SHADOW_BUCKETS];
	struct shadow_page *newest, *oldest;
	struct shadow_page *zapped; /* by hash_next, until the flush */
	struct shadow_page *unsync_newest, *unsync_oldest;
	u64 unsync_pages; /* (a) on that list */
	struct sparse rmaps[QUIRE_AS_MAX][3];
	u64 pages;		       /* alive: the quota's n_used */
	u64 orphans;		       /* (a) of these, what shadow_unlock() has to zap */
	struct shadow_page *pae_roots; /* by hash_next; none is counted or found by a gfn */
	u64 changes;	/* of entries, ever: says how long a hold of mmu_lock is getting */
	u64 write_turn; /* grows when L1's tables changed, and when pages begin to be synced */
	u64 root_turn;	/* (a) grows when a root went away */
	u64 root_gone;	/* a root was zapped: vCPUs are told at the commit */
	struct object_cache pool;
	struct object_slabs slabs;
	/* For splitting; under slots_lock, kept until the VM ends. */
	struct object_cache split_descriptors, split_headers;
	struct table_cache split_pages, split_rmaps;
};

/* A change of shadow tables, and where new pages and objects come from. */
struct shadow_change {
	struct quire_vm *vm;
	struct shadow *shadow;
	struct flush_debt *debt;
	struct object_cache *headers, *descriptors;
	struct table_cache *pages, *rmaps;
};

/* Changes of entries in one hold of mmu_lock by what goes through a range: some 10 us. */
#if defined(QUIRE_SCHED)
/* Interleavings are of few entries, and pieces shall end among them. */
#define SHADOW_PIECE_CHANGES 3u
#elif defined(QUIRE_CHECK)
/* Each release of the lock looks at every table. */
#define SHADOW_PIECE_CHANGES 32768u
#else
#define SHADOW_PIECE_CHANGES 128u
#endif

/*
 * A walk over what maps [start, end) at the levels from 4K to .highest. Operations on a range do a
 * piece in one hold of mmu_lock and say whether there is more: then the caller lets others have the
 * lock, and calls again with the same walk.
 */
struct shadow_range {
	u32 as_id;
	gfn_t start, end;
	u32 level, highest; /* reached, and the last */
	u64 at;		    /* block of .level reached */
};
static inline struct shadow_range shadow_range_of(u32 as_id, gfn_t start, gfn_t end)
{
	return (struct shadow_range){.as_id = as_id,
				     .start = start,
				     .end = end,
				     .level = QUIRE_LEVEL_4K,
				     .highest = QUIRE_LEVEL_1G};
}

static inline int shadow_range_is_done(const struct shadow_range *range)
{
	return range->level > range->highest;
}
/* The same for shadow_zap_range(), in several address spaces. */
struct shadow_zap {
	u32 as_mask;
	struct shadow_range range; /* in the address space that is reached */
	gfn_t tracked;		   /* tables zapped so far, once the leaves of the range are gone */
};

/* The VM's shadow MMU, NULL before the first nested root. Issues an acquire load. */
static inline struct shadow *shadow_of(const struct quire_vm *vm)
{
	return atomic_load_acquire_ptr(&vm->shadow);
}

/* No more than @access, which L1 allows. */
static inline void shadow_limit_leaf(struct entry_leaf *leaf, u32 access)
{
	leaf->writable = leaf->writable && (access & ACCESS_WRITE);
	leaf->mmu_writable = leaf->mmu_writable && leaf->writable;
	leaf->executable = leaf->executable && (access & ACCESS_EXEC);
}

static inline u32 role_level(u32 role)
{
	return role & ROLE_LEVEL_MASK;
}

static inline u32 role_access(u32 role)
{
	return (role & ROLE_ACCESS_MASK) >> ROLE_ACCESS_SHIFT;
}

static inline u32 role_quadrant(u32 role)
{
	return (role & ROLE_QUADRANT_MASK) >> ROLE_QUADRANT_SHIFT;
}

static inline u32 role_as(u32 role)
{
	return role >> ROLE_SMM_SHIFT;
}

static inline struct shadow_page *shadow_page_of(const u64 *entry)
{
	return (struct shadow_page *)(uintptr_t)table_of(entry)->reserved_words[0];
}

/* --- any lock --- */

/* May the root that was loaded be used? Only a request to reload, seen in guest mode, can say no
 * afterwards. So the turn has no order of its own, as the vCPU loaded the root under mmu_lock. */
static inline int shadow_root_is_valid(const struct quire_vcpu *vcpu)
{
	return vcpu->shadow.page &&
	       vcpu->shadow.turn == atomic_load_relaxed_u64(&vcpu->vm->shadow->root_turn);
}

/*
 * Does any page lag? Asked after L1's flush, which comes after its store, which came after the
 * mark: this load has no order of its own. Where none does, the vCPU walks after a full fence, on
 * its way into guest mode.
 */
static inline int shadow_any_unsync(const struct quire_vm *vm)
{
	return atomic_load_relaxed_u64(&vm->shadow->unsync_pages) != 0;
}

/* --- no lock, no read section --- */

/* Make the VM's shadow MMU if there is none: -ENOMEM. Takes slots_lock. */
must_check int shadow_init(struct quire_vm *vm);

/* Have what one root or one mapping may take: -ENOMEM. Takes mmu_lock. */
must_check int shadow_reserve(struct quire_vcpu *vcpu);
/* The same without mmu_lock: the objects come in @objects, with -ENOMEM perhaps a few, and the
 * caller moves them into the VM's pool. */
must_check int shadow_reserve_apart(struct quire_vcpu *vcpu, struct object_cache *objects);

/* L1's tables as they were walked for one L2 address. */
struct shadow_walk {
	gpa_t gpa; /* L2's */
	u64 error_code;
	u64 write_turn;			    /* before the walk */
	u32 top, level;			    /* of L1's highest table and its leaf */
	gfn_t tables[SHADOW_LEVEL_MAX + 1]; /* [level]: L1's table of that level */
	u32 access[SHADOW_LEVEL_MAX + 1];   /* [level]: what the path above that table allows */
	u32 leaf_access;		    /* along the whole path; no write while D is clear */
	u32 by_hand; /* the write is allowed, but no entry can say so: CR0.WP is clear, SMAP on */
	gfn_t gfn;   /* L1's, of the 4K page */
	u64 refused; /* error code for L1 when its tables do not allow the access */
};

/*
 * Walk L1's tables with the rights of @walk->error_code, setting A and D as the processor does.
 * QUIRE_FIXED: @walk holds the path; QUIRE_NESTED_FAULT: .refused; QUIRE_RETRY: a slot is going
 * away; or -errno. May sleep.
 */
must_check int shadow_walk_guest(struct quire_vcpu *vcpu, struct shadow_walk *walk);
/* With the gfn, what a shadow page is found by. */
struct shadow_key {
	gfn_t gfn;
	u32 role;
};
/*
 * Read the entries of L1's table that @wanted, a bitmap of those of the shadow page @key, names:
 * nonzero when it cannot be read.
 */
must_check int shadow_read_table(const struct quire_vcpu *vcpu, const struct shadow_key *key,
				 const u64 *wanted, u64 *entries);
/* What an entry of one of L1's lowest tables maps now. */
struct shadow_guest_leaf {
	gfn_t gfn;
	u32 access; /* 0: nothing, or nothing before the entry was walked again */
};

/* The VM ends: no vCPU, no call is left. */
void shadow_destroy(struct quire_vm *vm);

/* --- any lock --- */

struct shadow_guest_leaf shadow_guest_leaf_of(const struct quire_vcpu *vcpu, u64 entry);

/* A change with what shadow_reserve() put in the vCPU's hands. */
struct shadow_change shadow_change_of(struct quire_vcpu *vcpu, struct flush_debt *debt);

/* --- no mmu_lock, no read section --- */

/* Zap what lost its last parent, in pieces, each in a hold of mmu_lock of its own. */
void shadow_zap_orphans(struct quire_vm *vm);

/* --- mmu_lock exclusive, or a read section --- */

/*
 * Nonzero: some leaf of the range was used. Clearing that owes nothing.
 */
struct shadow_age_range {
	u32 as_id;
	gfn_t start, end;
	enum quire_age kind;
};
must_check int shadow_age(struct quire_vm *vm, const struct shadow_age_range *range);
/* Add to @counts, by level, the pages of [start, end) that leaves map, once for each leaf. */
void shadow_count_leaves(struct quire_vm *vm, u32 as_id, gfn_t start, gfn_t end, u64 counts[4]);

/* --- mmu_lock in either mode --- */

/* The level of the leaf for @at below @root, 4K where there is none. */
u32 shadow_level_at(const struct quire_vm *vm, const struct shadow_page *root, gfn_t at)
    REQUIRES_SHARED(&vm->mmu_lock);

/* --- mmu_lock exclusive --- */

/*
 * Make the shadow pages for the path of @walk, and track L1's tables. Nonzero when one was not
 * there yet: then L1 may have changed its table since, and must be walked again. Gfns that are
 * tracked now are in @fresh, @count of them: the caller takes their TDP mappings away before it
 * drops the lock.
 */
struct shadow_path {
	struct shadow_page *pages[SHADOW_LEVEL_MAX + 1];
	u32 root_level;
	gfn_t fresh[SHADOW_LEVEL_MAX];
	u32 count;
};
must_check int shadow_path_get(const struct shadow_change *change, struct quire_vcpu *vcpu,
			       const struct shadow_walk *walk, struct shadow_path *path);

/*
 * The root of L1's tables, or the direct one, at path->root_level, and nothing else of the path:
 * made, or where L1's are PAE's or 32-bit, the vCPU's own, whose four entries lead to what @vcpu's
 * tables say from then on. -ENOMEM
 */
must_check int shadow_root_get(const struct shadow_change *change, struct quire_vcpu *vcpu,
			       struct shadow_path *path);

/*
 * The same where no table of a guest stands behind the mapping: the path to the direct root of
 * @as_id, which is made when there is none, for @walk, of which .gpa is set. -ENOMEM.
 */
must_check int shadow_path_direct(const struct shadow_change *change, u32 as_id,
				  struct shadow_walk *walk, struct shadow_path *path);

/* Is it still all there? Another vCPU may have taken of it. */
int shadow_has_reserve(const struct quire_vcpu *vcpu);

/*
 * The entries around a 4K leaf that was just put, SHADOW_GROUP_PAGES of them, aligned. Those that
 * were empty may be filled as well, as KVM's prefetch does (F-107):
 *
 *   shadow_map()         mmu_lock exclusive: notes the group
 *   shadow_group_read()  no lock: what the guest's table says of the empty ones
 *                        the caller looks the pages up, without waiting
 *   shadow_group_find()  mmu_lock exclusive: is the table as it was?
 *   shadow_group_put()   the leaves
 */
#define SHADOW_GROUP_PAGES 8u
struct shadow_group {
	struct shadow_key key; /* the shadow page */
	u64 write_turn;	       /* when the group was noted */
	u32 first;	       /* entry of the table */
	u32 empty;	       /* bit i: nothing was at .first + i */
};
/* What an empty entry is to map. */
struct shadow_neighbour {
	gfn_t gfn;
	u32 access;
};

/* Install @leaf for the walked address: an enum quire_outcome. @write: the fault was a write. */
struct shadow_mapping {
	const struct shadow_walk *walk;
	const struct shadow_path *path;
	gfn_t gfn; /* L1's */
	struct entry_leaf leaf;
	u32 wanted_level; /* the leaf's, or a higher one that the NX workaround keeps away */
	bool write, fetch;
	struct shadow_group *group; /* filled in where a 4K leaf was put */
};
must_check enum quire_outcome shadow_map(const struct shadow_change *change,
					 const struct shadow_mapping *mapping);

/* The page of @group, NULL when it has gone or when the guest's tables have changed since. */
struct shadow_page *shadow_group_find(const struct shadow *shadow,
				      const struct shadow_group *group);
/* Put @leaf, which maps @neighbour, at entry @index of @page. Nonzero: not empty, or no memory. */
must_check int shadow_group_put(const struct shadow_change *change, struct shadow_page *page,
				u32 index, const struct shadow_neighbour *neighbour,
				const struct entry_leaf *leaf);

/*
 * L1 wants to write @gfn: let the shadow pages of the table lag. Zero, with nothing done, when one
 * of them is no page of the lowest level: then they must go. The write is allowed once the lock is
 * released.
 */
must_check int shadow_unsync(struct quire_vm *vm, u32 as_id, gfn_t gfn) REQUIRES(&vm->mmu_lock);

/*
 * Bringing pages up to date with L1's tables, some at a time:
 *
 *   shadow_sync_begin()   mmu_lock exclusive: choose pages, track their tables again
 *                         the caller zaps each .pages[].key in the TDP tables, flushes, unlocks
 *   shadow_sync_read()    no lock: read L1's tables
 *   shadow_sync_end()     mmu_lock exclusive: compare, take away, and they follow again
 */
#define SHADOW_SYNC_BATCH 8u
struct shadow_sync {
	const struct shadow_page *root; /* the pages below it */
	const struct shadow_key *only;	/* or below this one, if it is not NULL */
	u32 count;
	struct {
		struct shadow_key key;
		u32 turn;
		u32 unreadable;
		u64 present[QUIRE_TABLE_ENTRIES / 64]; /* the entries to compare */
		struct table *guest;		       /* L1's */
	} pages[SHADOW_SYNC_BATCH];
};
/* The pages chosen, oldest first; fewer than a batch: there are no more. */
must_check u32 shadow_sync_begin(const struct shadow_change *change, struct shadow_sync *sync);
void shadow_sync_end(const struct shadow_change *change, const struct quire_vcpu *vcpu,
		     struct shadow_sync *sync);

/* The page of @path below which all must be synced before it is linked there, with its key; NULL.
 */
struct shadow_page *shadow_path_lags(const struct shadow *shadow, const struct shadow_path *path,
				     const struct shadow_walk *walk, struct shadow_key *key);

void shadow_page_zap(const struct shadow_change *change, struct shadow_page *page);

/* Make room for one walk: zap the oldest pages that are no roots, and where that does not do, roots
 * but @keep (may be NULL). */
void shadow_make_room(const struct shadow_change *change, const struct shadow_page *keep);
/* The client has set the limit. Nonzero: there is more to zap. */
must_check int shadow_shrink(struct quire_vm *vm, struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/* Take away what maps the range, and what shadows tables there. Nonzero: there is more. */
must_check int shadow_zap_range(struct quire_vm *vm, struct shadow_zap *zap,
				struct flush_debt *debt) REQUIRES(&vm->mmu_lock);
/* @gfn is being written: drop what shadows it. Nonzero when there was something. */
int shadow_zap_gfn(struct quire_vm *vm, u32 as_id, gfn_t gfn, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock);
/* The library has written within one page: drop the entries made of it, or the shadow pages that
 * seem to be no tables any more. */
struct shadow_write {
	u32 as_id;
	gpa_t gpa;
	u64 size_bytes;
};
void shadow_written(struct quire_vm *vm, const struct shadow_write *write, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock);
/* From here on no page that exists now is used again. */
void shadow_make_obsolete(struct quire_vm *vm) REQUIRES(&vm->mmu_lock);
/* Zap a piece of the obsolete pages: nonzero while there are more. */
must_check int shadow_zap_obsolete(struct quire_vm *vm, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock);

/* Remove W from what maps the range, at every level. Nonzero: there is more. */
must_check int shadow_write_protect(struct quire_vm *vm, struct shadow_range *range,
				    struct flush_debt *debt) REQUIRES(&vm->mmu_lock);
/*
 * Drop parts of what could be larger, as .allowed says: may a leaf of @level map the block at
 * @gfn? Asked with mmu_lock held, at least once for each block with parts in it. Nonzero: there is
 * more.
 */
struct shadow_recovery {
	struct shadow_range range; /* .highest: of parts, so 2M */
	bool (*allowed)(void *ctx, gfn_t gfn, u32 level);
	void *ctx;
	u64 block; /* of .asked_level, where .allowed was asked last, plus 1 */
	u32 asked_level;
	int block_allowed; /* and what it said */
};
must_check int shadow_recover(struct quire_vm *vm, struct shadow_recovery *recovery,
			      struct flush_debt *debt) REQUIRES(&vm->mmu_lock);
/* The shadow page of @table goes, and what only it leads to. */
void shadow_zap_table(struct quire_vm *vm, const struct table *table, struct flush_debt *debt)
    REQUIRES(&vm->mmu_lock);

/*
 * Split huge leaves of [start, end), 1G first. Zero when done; -EAGAIN: drop mmu_lock, refill,
 * and go on with the same @split. Under slots_lock too. Start with .level 1G and .at 0.
 */
struct shadow_split {
	u32 as_id;
	gfn_t start, end;
	u32 level;
	u32 progress; /* leaves split in this hold */
	u64 at;	      /* block reached */
};
must_check int shadow_split_next(struct quire_vm *vm, struct shadow_split *split,
				 struct flush_debt *debt) REQUIRES(&vm->mmu_lock);

/*
 * Pay @debt and free what was zapped. Before mmu_lock is dropped, whenever something may have
 * been zapped: until then vCPUs may walk the tables.
 */
void shadow_commit(struct quire_vm *vm, struct flush_debt *debt) REQUIRES(&vm->mmu_lock);
/* Is there anything to commit? */
static inline int shadow_owes(const struct quire_vm *vm)
{
	const struct shadow *shadow = shadow_of(vm);

	mmu_assert_exclusive(vm);
	return shadow && (shadow->zapped || shadow->root_gone);
}

/*
 * Release mmu_lock, and zap what lost its parents meanwhile: each exclusive hold ends with this. In
 * check builds every table is looked at first.
 */
static inline void shadow_unlock(struct quire_vm *vm) RELEASES(&vm->mmu_lock)
{
	const struct shadow *shadow = shadow_of(vm);

	mmu_assert_exclusive(vm);
	vm_check(vm);
	biglock_write_unlock(&vm->mmu_lock);
	if (shadow && unlikely(atomic_load_relaxed_u64(&shadow->orphans)))
		shadow_zap_orphans(vm);
}

#ifdef QUIRE_CHECK
/* Counts leaves by level. */
void shadow_check(struct quire_vm *vm, u64 by_level[5]) REQUIRES(&vm->mmu_lock);
#endif

/* --- slots_lock --- */

/* -ENOMEM when the caches do not hold enough for one split. */
must_check int shadow_split_topup(struct quire_vm *vm) REQUIRES(&vm->slots_lock);

/* --- no lock, no read section --- */

/*
 * What is to be mapped at the empty entries of @group: bit i says that neighbours[i] was filled in.
 * Passes over what no access may use, and ends with the first entry of the guest's that maps
 * nothing, or that no access has gone through.
 */
must_check u32 shadow_group_read(const struct quire_vcpu *vcpu, const struct shadow_group *group,
				 struct shadow_neighbour *neighbours);
/* The second step of syncing. */
void shadow_sync_read(const struct quire_vcpu *vcpu, struct shadow_sync *sync);

#endif
