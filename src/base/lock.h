/* Locks, each with a rank: a thread takes them in rising rank only. */
#ifndef QUIRE_BASE_LOCK_H
#define QUIRE_BASE_LOCK_H

#include "src/base/atomic.h"
#include "src/base/platform.h"

/* The order of all locks of the library, outermost first. docs/LOCKING.md has a card for each. */
enum lock_rank {
	RANK_NONE,
	RANK_PFN_REFRESH,     /* pfn_cache->refresh */
	RANK_SLOTS,	      /* vm->slots_lock */
	RANK_VCPUS,	      /* vm->vcpus_lock */
	RANK_GMEM_INVALIDATE, /* gmem inode */
	RANK_GMEM_PINS,	      /* gmem inode's pins */
	RANK_GMEM_PUNCH,      /* gmem inode's pages: come into use, or are punched */
	RANK_GMEM_PAGE,	      /* gmem inode's page state */
	RANK_PFN_LIST,	      /* vm->pfn_caches.lock */
	RANK_PFN_CACHE,	      /* pfn_cache->lock */
	RANK_MMU,	      /* vm->mmu_lock */
	RANK_ROOTS,	      /* vm->roots.pages_lock */
	RANK_INVALIDATE,      /* vm->invalidation.lock */
	RANK_FLUSH,	      /* vm->flush.lock */
	RANK_RMP,	      /* reverse map: the list of maps, a block of frames */
	RANK_ARENA,	      /* vm->arena.lock */
};

/* Clang's thread-safety analysis; empty elsewhere. */
#if defined(__clang__)
#define LOCK_ATTRIBUTE(x) __attribute__((x))
#else
#define LOCK_ATTRIBUTE(x)
#endif
#define LOCKABLE LOCK_ATTRIBUTE(capability("lock"))
#define ACQUIRES(...) LOCK_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define ACQUIRES_SHARED(...) LOCK_ATTRIBUTE(acquire_shared_capability(__VA_ARGS__))
/* The first argument says what the function returns when it holds the lock. */
#define TRY_ACQUIRES(...) LOCK_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define TRY_ACQUIRES_SHARED(...) LOCK_ATTRIBUTE(try_acquire_shared_capability(__VA_ARGS__))
#define RELEASES(...) LOCK_ATTRIBUTE(release_capability(__VA_ARGS__))
#define RELEASES_SHARED(...) LOCK_ATTRIBUTE(release_shared_capability(__VA_ARGS__))
#define REQUIRES(...) LOCK_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) LOCK_ATTRIBUTE(requires_shared_capability(__VA_ARGS__))
#define ASSERTS_HELD(...) LOCK_ATTRIBUTE(assert_capability(__VA_ARGS__))
#define ASSERTS_HELD_SHARED(...) LOCK_ATTRIBUTE(assert_shared_capability(__VA_ARGS__))
/* For the reader: in C, Clang cannot name a sibling member. */
#define GUARDED_BY(x)
#define NO_LOCK_ANALYSIS LOCK_ATTRIBUTE(no_thread_safety_analysis)

/* How a lock is held; a stronger mode does where a weaker one is asked for. */
enum lock_mode { LOCK_SHARED = 1, LOCK_EXCLUSIVE };

#ifdef QUIRE_CHECK
/* For CHECK() alone: does this thread hold a lock of @rank, or @lock in @least or stronger? */
int lock_rank_is_held(enum lock_rank rank);
int lock_is_held(const void *lock, enum lock_mode least);
#endif

/*
 * To take a lock is an acquire, to give it back a release, and neither is more, as with any mutex
 * of C11. What must come before a later load has a fence of its own. One exception:
 * biglock_write_lock() is a full fence, for its readers' sake.
 */

/* A sleeping mutex. word: 0 free, 1 held, 2 held with sleepers. */
struct LOCKABLE mutex {
	u32 word;
	u32 rank;
};
void mutex_init(struct mutex *mutex, enum lock_rank rank);
void mutex_lock(struct mutex *mutex) ACQUIRES(mutex);
void mutex_unlock(struct mutex *mutex) RELEASES(mutex);

/* A sleeping reader-writer lock; writers keep new readers out, so they do not starve. */
struct LOCKABLE rwlock {
	struct mutex writers; /* held by the writer */
	u32 readers;	      /* count, and RWLOCK_WRITER */
	u32 rank;
};
void rwlock_init(struct rwlock *lock, enum lock_rank rank);
void rwlock_read_lock(struct rwlock *lock) ACQUIRES_SHARED(lock);
void rwlock_read_unlock(struct rwlock *lock) RELEASES_SHARED(lock);
void rwlock_write_lock(struct rwlock *lock) ACQUIRES(lock);
void rwlock_write_unlock(struct rwlock *lock) RELEASES(lock);

/*
 * A gate: a word that is 0 while open, GATE_CLOSED, or GATE_SLEEPERS when closed and a thread
 * sleeps until it opens. One thread at a time closes it, with an exchange, and opens it again.
 */
enum { GATE_CLOSED = 1, GATE_SLEEPERS = 2 };
void gate_wait(u32 *gate);
void gate_open(u32 *gate);

/*
 * A reader-writer lock whose readers do not share a cache line: each vCPU reads through a line of
 * its own, and a writer looks at all of them. This is mmu_lock: faults of many vCPUs take it
 * shared at the cost of one uncontended exchange.
 *
 *   reader                                  writer
 *   line->busy = 1     (exchange: fence)    lock->writer = 1   (exchange: fence)
 *   read lock->writer: if set, back off     read every line->busy: wait while set
 *
 * One of the two sees the other. Readers that had to wait come before the next writer, so a thread
 * that takes the lock again and again, a piece of its work each time, lets them in between.
 */
struct biglock_line {
	cache_aligned u32 busy;
	struct biglock_line *next; /* under the writers' mutex */
};
struct LOCKABLE biglock {
	struct mutex writers;
	u32 writer;		    /* a gate: closed to readers */
	u32 exclusive;		    /* changed by the writer; any holder may read it */
	u32 waiting;		    /* readers that found the gate closed and have not read since */
	struct biglock_line shared; /* readers that have no line: busy counts them */
	struct biglock_line *lines;
	u32 rank;
};
void biglock_init(struct biglock *lock, enum lock_rank rank);
/* Add or remove a reader's line; excludes the writer meanwhile. */
void biglock_line_add(struct biglock *lock, struct biglock_line *line);
void biglock_line_remove(struct biglock *lock, struct biglock_line *line);
/* @line may be NULL: the shared line. */
void biglock_read_lock(struct biglock *lock, struct biglock_line *line) ACQUIRES_SHARED(lock);
void biglock_read_unlock(struct biglock *lock, struct biglock_line *line) RELEASES_SHARED(lock);
/*
 * biglock_read_lock() and then reclaim_enter(), with one full fence for the two: the exchange of
 * the line, which is one of the caller's own. Not from within a read section. Returns the running
 * thread, for biglock_read_exit().
 */
must_check struct quire_thread *biglock_read_enter(struct biglock *lock, struct biglock_line *line)
    ACQUIRES_SHARED(lock);
void biglock_read_exit(struct biglock *lock, struct biglock_line *line, struct quire_thread *self)
    RELEASES_SHARED(lock);
/* A full fence. */
void biglock_write_lock(struct biglock *lock) ACQUIRES(lock);
void biglock_write_unlock(struct biglock *lock) RELEASES(lock);
/* With the lock held, in either mode: is it exclusive? */
static inline bool biglock_is_exclusive(const struct biglock *lock)
{
	return lock->exclusive;
}

#endif
