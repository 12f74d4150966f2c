/* The invalidation sequence: how a fault learns that what it looked up may be gone. */
#ifndef QUIRE_VM_INVALIDATE_H
#define QUIRE_VM_INVALIDATE_H

#include "src/base/lock.h"
#include "src/base/mutant.h"

struct quire_vm;

/*
 * A thread that changes where a gfn's memory is brackets the change with begin and end, and
 * zaps in between. A fault takes a snapshot, looks the page up without a lock, takes mmu_lock and
 * asks invalidation_retry(): when it says no, the page is still the right one, and stays so while
 * mmu_lock is held.
 *
 *   fault                                 invalidator
 *   snapshot = seq        (acquire)       mmu_lock: in_progress++, range
 *   look the page up                      zap, flush
 *   mmu_lock shared                       change the memory
 *   in range of in_progress? retry        mmu_lock: seq++, in_progress--
 *   seq != snapshot? retry
 *   install
 *
 * If begin came before the fault's mmu_lock, in_progress or seq says so; if the install came
 * first, begin's zap finds it. The seq test is for any gfn, the range is the union of all
 * invalidations in progress: both may ask for a retry too many, never for one too few.
 */
struct invalidation {
	u64 seq;	 /* written under mmu_lock exclusive */
	u32 in_progress; /* ditto */
	u64 start, end;	 /* gfns, ditto; meaningful while in_progress */

	/* Host invalidations between begin and end, whether or not a slot was hit: a new slot set
	 * is published only when there is none, so that begin and end of one see the same slots. */
	struct mutex lock;
	u32 active; /* under @lock; waited on */
};

void invalidation_init(struct invalidation *invalidation);

/* --- mmu_lock exclusive --- */

/* One begin, any number of ranges, and later one end. */
void invalidation_begin(struct quire_vm *vm);
void invalidation_add_range(struct quire_vm *vm, gfn_t start, gfn_t end);
void invalidation_end(struct quire_vm *vm);

/* --- any lock --- */

/* A fault's snapshot, before it looks anything up. Issues an acquire load. */
static inline u64 invalidation_snapshot(const struct invalidation *inv)
{
	return atomic_load_acquire_u64(&inv->seq);
}

/*
 * Under mmu_lock: does an invalidation in progress touch [start, end)? A huge mapping over pages
 * of it must wait even when the page that it is made for is none of them: begin has zapped them
 * already, and would not find what is installed now.
 */
static inline bool invalidation_touches(const struct invalidation *inv, gfn_t start, gfn_t end)
{
	return unlikely(atomic_load_relaxed_u32(&inv->in_progress)) && start.v < inv->end &&
	       inv->start < end.v;
}

/* Under mmu_lock: must the fault on @gfn start over? */
static inline bool invalidation_retry(const struct invalidation *inv, u64 snapshot, gfn_t gfn)
{
	if (invalidation_touches(inv, gfn, (gfn_t){gfn.v + 1}) && !MUTANT(progress_unchecked))
		return true;
	return atomic_load_relaxed_u64(&inv->seq) != snapshot && !MUTANT(sequence_unchecked);
}

/* Without a lock and an order, as a hint that saves work: false is nothing, and true may rarely be
 * a retry too many. */
static inline bool invalidation_retry_hint(const struct invalidation *inv, u64 snapshot, gfn_t gfn)
{
	if (unlikely(atomic_load_relaxed_u32(&inv->in_progress)) &&
	    gfn.v >= atomic_load_relaxed_u64(&inv->start) &&
	    gfn.v < atomic_load_relaxed_u64(&inv->end))
		return true;
	return atomic_load_relaxed_u64(&inv->seq) != snapshot;
}

/* --- no mmu_lock, no read section --- */

/* A host invalidation begins, before any lock; it ends. */
void host_invalidation_enter(struct quire_vm *vm);
void host_invalidation_leave(struct quire_vm *vm);
/* --- slots_lock --- */

/* Sleep until no host invalidation is in flight, and keep new ones out until _allow(). */
void host_invalidation_block(struct invalidation *inv) ACQUIRES(&inv->lock);
void host_invalidation_allow(struct invalidation *inv) RELEASES(&inv->lock);

#endif
