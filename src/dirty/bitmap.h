/* The dirty bitmap of one slot. */
#ifndef QUIRE_DIRTY_BITMAP_H
#define QUIRE_DIRTY_BITMAP_H

#include <quire/host.h>

#include "src/base/assert.h"
#include "src/base/atomic.h"
#include "src/base/lock.h"
#include "src/base/mutant.h"

/*
 * One bit a page, index gfn - base_gfn. Bits are set in a read section under mmu_lock in either
 * mode. They are taken under slots_lock and mmu_lock: shared, by an atomic operation; or exclusive,
 * when no thread sets any, by a plain load and store. So no write is ever between two harvests. The
 * object is handed from one version of a slot to the next, and lives until logging is off and no
 * call copies out of it.
 */
struct dirty_bitmap {
	u64 npages;
	u64 words; /* round_up(npages, 64) / 64 */
	u32 refs;  /* (a) the slot's, and one of each call that copies */
	/* (a) One call has the scratch words: taken under slots_lock, given back without a lock. */
	u32 is_lent;
	u64 *scratch; /* as many words */
	u64 bits[];
};

/* All bits clear, or (@set) all npages of them set. NULL when there is no memory. */
struct dirty_bitmap *dirty_bitmap_alloc(const struct quire_host_ops *host, void *host_ctx,
					u64 npages, u32 set);
/* Without a reference. */
void dirty_bitmap_free(const struct quire_host_ops *host, void *host_ctx,
		       struct dirty_bitmap *bitmap);

/* Give the slot's reference back, and free the bitmap if it was the last. NULL is allowed. */
static inline void dirty_bitmap_put(const struct quire_host_ops *host, void *host_ctx,
				    struct dirty_bitmap *bitmap)
{
	CHECK(!bitmap || atomic_load_relaxed_u32(&bitmap->refs));
	if (bitmap && atomic_fetch_sub_u32(&bitmap->refs, 1) == 1)
		dirty_bitmap_free(host, host_ctx, bitmap);
}

/* In a read section. After a full fence it may stand for a mark: see LOCKING.md. */
static inline int dirty_bitmap_has(const struct dirty_bitmap *bitmap, u64 index)
{
	return atomic_load_relaxed_u64(&bitmap->bits[index / 64]) >> index % 64 & 1;
}

/* In a read section, under mmu_lock in either mode. */
static inline void dirty_bitmap_mark(struct dirty_bitmap *bitmap, u64 index)
{
	u64 *word = &bitmap->bits[index / 64];
	u64 bit = UINT64_C(1) << (index % 64);

	CHECK(index < bitmap->npages);
	/* I-65. */
	CHECK(lock_rank_is_held(RANK_MMU) || MUTANT(own_mark_unlocked));
	/* Most pages that are marked are marked already: do not own the line for them. */
	if (!dirty_bitmap_has(bitmap, index))
		atomic_fetch_or_relaxed_u64(word, bit);
}

#endif
