/* Read sections and grace periods: what a lock-free reader may still see is not freed. */
#ifndef QUIRE_BASE_RECLAIM_H
#define QUIRE_BASE_RECLAIM_H

#include "src/base/atomic.h"
#include "src/base/platform.h"

/*
 * A reader brackets its look at shared structure with reclaim_enter() and reclaim_leave(); it must
 * not sleep between them, so a grace period is short and is simply waited for. An object that
 * was unlinked before reclaim_synchronize() was called is seen by no reader after it returned.
 *
 * Epochs: reclaim_synchronize() advances the epoch and waits for every thread whose section began
 * in an earlier one.
 *
 *   reader                                    writer
 *   epoch = global         (store)            unlink the object
 *   full fence         [pairs with ->]        full fence (fetch_add on global)
 *   read the structure                        read every reader's epoch: wait if old
 *
 * Either the writer sees the reader's epoch and waits, or the reader's loads come after the
 * unlink and cannot find the object.
 */
extern u64 reclaim_epoch;

/*
 * The first half of reclaim_enter(), for @self, the running thread: nothing may be looked at before
 * a full fence of the caller's.
 */
static inline void reclaim_announce(struct quire_thread *self)
{
	if (!self->nesting++)
		atomic_store_release_u64(&self->epoch, atomic_load_relaxed_u64(&reclaim_epoch));
}

static inline void reclaim_withdraw(struct quire_thread *self)
{
	if (--self->nesting == 0)
		atomic_store_release_u64(&self->epoch, 0);
}

static inline void reclaim_enter(void)
{
	struct quire_thread *self = base_self();

	if (self->nesting++)
		return;
	/* The exchange is the reader's full fence. */
	(void)atomic_exchange_u64(&self->epoch, atomic_load_relaxed_u64(&reclaim_epoch));
}

static inline void reclaim_leave(void)
{
	reclaim_withdraw(base_self());
}

/* Wait until every section that is open now has ended. Not from within a section; sleeps. */
void reclaim_synchronize(void);

#endif
