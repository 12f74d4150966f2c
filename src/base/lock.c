/* Locks over the platform's wait and wake. */
#include "src/base/lock.h"

#include "src/base/assert.h"
#include "src/base/mutant.h"
#include "src/base/reclaim.h"
#include "src/base/trace.h"

#define RWLOCK_WRITER (1u << 31)
#define SPINS 64u

/*
 * Check builds keep, per thread, the locks held with rank and mode: they report an order that could
 * deadlock, and answer the contracts of src/vm/locks.h. A lock released out of order is searched
 * for.
 */
#ifdef QUIRE_CHECK
static void held_push(const void *lock, u32 rank, enum lock_mode mode)
{
	struct quire_thread *self = base_self();

	for (u32 i = 0; i < self->held_count; i++)
		CHECK(self->held[i].rank < rank); /* I-71 */
	/* I-70. */
	CHECK(self->nesting == 0 || rank > RANK_MMU);
	_Static_assert(ARRAY_LEN(self->held) >= RANK_ARENA, "room for one lock of each rank");
	self->held[self->held_count++] = (struct quire_held_lock){lock, rank, mode};
}

static void held_pop(const void *lock)
{
	struct quire_thread *self = base_self();

	for (u32 i = self->held_count; i-- > 0;) {
		if (self->held[i].lock != lock)
			continue;
		self->held[i] = self->held[--self->held_count];
		return;
	}
	CHECK(!"a lock was released that the thread does not hold");
}

int lock_rank_is_held(enum lock_rank rank)
{
	const struct quire_thread *self = base_self();

	for (u32 i = 0; i < self->held_count; i++)
		if (self->held[i].rank == rank)
			return 1;
	return 0;
}

int lock_is_held(const void *lock, enum lock_mode least)
{
	const struct quire_thread *self = base_self();

	for (u32 i = 0; i < self->held_count; i++)
		if (self->held[i].lock == lock)
			return self->held[i].mode >= least;
	return 0;
}
#else
static void held_push(const void *lock, u32 rank, enum lock_mode mode)
{
	(void)lock;
	(void)rank;
	(void)mode;
}

static void held_pop(const void *lock)
{
	(void)lock;
}
#endif

static void mutex_acquire(struct mutex *mutex)
{
	for (unsigned int turn = 0; turn < SPINS; turn++) {
		u32 seen = 0;

		if (atomic_cmpxchg_acquire_u32(&mutex->word, &seen, 1))
			return;
		if (seen == 2)
			break;
		base_platform->relax(turn);
	}
	/* From here on the word says that a thread sleeps, so the owner wakes one at unlock. */
	while (atomic_exchange_acquire_u32(&mutex->word, 2) != 0)
		base_platform->wait(&mutex->word, 2);
}

static void mutex_release(struct mutex *mutex)
{
	if (atomic_exchange_release_u32(&mutex->word, 0) == 2)
		base_platform->wake(&mutex->word, 1);
}

void mutex_init(struct mutex *mutex, enum lock_rank rank)
{
	mutex->word = 0;
	mutex->rank = rank;
}

void mutex_lock(struct mutex *mutex) NO_LOCK_ANALYSIS
{
	held_push(mutex, mutex->rank, LOCK_EXCLUSIVE);
	mutex_acquire(mutex);
}

void mutex_unlock(struct mutex *mutex) NO_LOCK_ANALYSIS
{
	mutex_release(mutex);
	held_pop(mutex);
}

void rwlock_init(struct rwlock *lock, enum lock_rank rank)
{
	mutex_init(&lock->writers, rank);
	lock->readers = 0;
	lock->rank = rank;
}

void rwlock_read_lock(struct rwlock *lock) NO_LOCK_ANALYSIS
{
	held_push(lock, lock->rank, LOCK_SHARED);
	for (;;) {
		u32 seen = atomic_load_relaxed_u32(&lock->readers);

		if (seen & RWLOCK_WRITER)
			base_platform->wait(&lock->readers, seen);
		else if (atomic_cmpxchg_acquire_u32(&lock->readers, &seen, seen + 1))
			return;
	}
}

void rwlock_read_unlock(struct rwlock *lock) NO_LOCK_ANALYSIS
{
	if (atomic_fetch_sub_release_u32(&lock->readers, 1) == (RWLOCK_WRITER | 1))
		base_platform->wake(&lock->readers, UINT32_MAX);
	held_pop(lock);
}

void rwlock_write_lock(struct rwlock *lock) NO_LOCK_ANALYSIS
{
	u32 seen;

	held_push(lock, lock->rank, LOCK_EXCLUSIVE);
	mutex_acquire(&lock->writers);
	atomic_fetch_or_relaxed_u32(&lock->readers, RWLOCK_WRITER);
	while ((seen = atomic_load_acquire_u32(&lock->readers)) != RWLOCK_WRITER)
		base_platform->wait(&lock->readers, seen);
}

void rwlock_write_unlock(struct rwlock *lock) NO_LOCK_ANALYSIS
{
	atomic_store_release_u32(&lock->readers, 0);
	base_platform->wake(&lock->readers, UINT32_MAX);
	mutex_release(&lock->writers);
	held_pop(lock);
}

void biglock_init(struct biglock *lock, enum lock_rank rank)
{
	mutex_init(&lock->writers, rank);
	lock->writer = 0;
	lock->exclusive = 0;
	lock->waiting = 0;
	lock->shared.busy = 0;
	lock->shared.next = NULL;
	lock->lines = &lock->shared;
	lock->rank = rank;
}

void biglock_line_add(struct biglock *lock, struct biglock_line *line) NO_LOCK_ANALYSIS
{
	mutex_acquire(&lock->writers);
	line->busy = 0;
	line->next = lock->lines;
	lock->lines = line;
	mutex_release(&lock->writers);
}

void biglock_line_remove(struct biglock *lock, struct biglock_line *line) NO_LOCK_ANALYSIS
{
	struct biglock_line **link = &lock->lines;

	if (!MUTANT(line_unlocked))
		mutex_acquire(&lock->writers);
	while (*link != line)
		link = &(*link)->next;
	*link = line->next;
	if (!MUTANT(line_unlocked))
		mutex_release(&lock->writers);
}

/* A line of one vCPU is set; the shared one counts. Both are a full fence. */
static void line_enter(struct biglock *lock, struct biglock_line *line)
{
	if (line == &lock->shared)
		atomic_fetch_add_u32(&line->busy, 1);
	else
		(void)atomic_exchange_u32(&line->busy, 1);
}

static void line_leave(struct biglock *lock, struct biglock_line *line)
{
	if (line == &lock->shared)
		atomic_fetch_sub_u32(&line->busy, 1);
	else
		atomic_store_release_u32(&line->busy, 0);
}

void gate_wait(u32 *gate)
{
	u32 seen;

	while ((seen = atomic_load_acquire_u32(gate)))
		/* The word says that a thread sleeps, so that gate_open() wakes it. */
		if (seen == GATE_SLEEPERS || atomic_cmpxchg_relaxed_u32(gate, &seen, GATE_SLEEPERS))
			base_platform->wait(gate, GATE_SLEEPERS);
}

void gate_open(u32 *gate)
{
	if (atomic_exchange_release_u32(gate, 0) == GATE_SLEEPERS)
		base_platform->wake(gate, UINT32_MAX);
}

/* What a lock without lines would do: a reader comes alone. */
static inline void read_alone(struct biglock *lock) NO_LOCK_ANALYSIS
{
	if (MUTANT(biglock_plain))
		mutex_acquire(&lock->writers);
}

static inline void read_alone_no_more(struct biglock *lock) NO_LOCK_ANALYSIS
{
	if (MUTANT(biglock_plain))
		mutex_release(&lock->writers);
}

/* Called once for each read that finds the gate closed, and once it has read the gate open. */
static void waiting_add(struct biglock *lock, bool *is_counted)
{
	if (!*is_counted)
		atomic_add_relaxed_u32(&lock->waiting, 1);
	*is_counted = true;
}

static inline void waiting_sub(struct biglock *lock, bool is_counted)
{
	if (unlikely(is_counted))
		atomic_add_relaxed_u32(&lock->waiting, (u32)-1);
}

void biglock_read_lock(struct biglock *lock, struct biglock_line *line) NO_LOCK_ANALYSIS
{
	bool is_counted = false;

	held_push(lock, lock->rank, LOCK_SHARED);
	read_alone(lock);
	if (!line)
		line = &lock->shared;
	for (;;) {
		line_enter(lock, line);
		if (likely(!atomic_load_acquire_u32(&lock->writer)))
			break;
		line_leave(lock, line);
		waiting_add(lock, &is_counted);
		gate_wait(&lock->writer);
	}
	waiting_sub(lock, is_counted);
}

void biglock_read_unlock(struct biglock *lock, struct biglock_line *line) NO_LOCK_ANALYSIS
{
	line_leave(lock, line ? line : &lock->shared);
	read_alone_no_more(lock);
	held_pop(lock);
}

/* The holder may wait for a grace period: no epoch of ours stays while we wait for the lock. */
static __attribute__((noinline, cold)) void read_leave_and_wait(struct biglock *lock,
								struct biglock_line *line,
								struct quire_thread *self,
								bool *is_counted)
{
	reclaim_withdraw(self);
	/* Nothing was read under the lock. */
	atomic_store_relaxed_u32(&line->busy, 0);
	waiting_add(lock, is_counted);
	gate_wait(&lock->writer);
}

/*
 *   reader                                   unlinker
 *   epoch = global     (store)               unlink
 *   line->busy = 1     (full fence)          global++  (full fence)
 *   read the structure                       read every epoch: wait if old
 */
struct quire_thread *biglock_read_enter(struct biglock *lock,
					struct biglock_line *line) NO_LOCK_ANALYSIS
{
	struct quire_thread *self = base_self();
	bool is_counted = false;

	held_push(lock, lock->rank, LOCK_SHARED);
	read_alone(lock);
	for (;;) {
		reclaim_announce(self);
		(void)atomic_exchange_u32(&line->busy, 1);
		if (likely(!atomic_load_acquire_u32(&lock->writer)))
			break;
		read_leave_and_wait(lock, line, self, &is_counted);
	}
	waiting_sub(lock, is_counted);
	return self;
}

void biglock_read_exit(struct biglock *lock, struct biglock_line *line,
		       struct quire_thread *self) NO_LOCK_ANALYSIS
{
	reclaim_withdraw(self);
	atomic_store_release_u32(&line->busy, 0);
	read_alone_no_more(lock);
	held_pop(lock);
}

/*
 * The gate is open, so only readers that have waited are counted, and each goes in as soon as it
 * runs. The writer gives up after so many turns, the last of which give its processor away: the
 * kernel may run a reader later.
 */
#define WAITING_TURNS 1024u

static void let_waiting_in(struct biglock *lock)
{
	for (unsigned int turn = 0; turn < WAITING_TURNS; turn++) {
		if (likely(!atomic_load_relaxed_u32(&lock->waiting)))
			return;
		base_platform->relax(turn);
	}
}

void biglock_write_lock(struct biglock *lock) NO_LOCK_ANALYSIS
{
	held_push(lock, lock->rank, LOCK_EXCLUSIVE);
	mutex_acquire(&lock->writers);
	let_waiting_in(lock);
	(void)atomic_exchange_u32(&lock->writer, GATE_CLOSED);
	for (struct biglock_line *line = lock->lines; line; line = line->next)
		for (unsigned int turn = 0; atomic_load_acquire_u32(&line->busy); turn++)
			base_platform->relax(turn);
	lock->exclusive = 1;
	QUIRE_TIMED(MMU_LOCK, BEGINS, 0);
}

void biglock_write_unlock(struct biglock *lock) NO_LOCK_ANALYSIS
{
	QUIRE_TIMED(MMU_LOCK, ENDS, 0);
	lock->exclusive = 0;
	gate_open(&lock->writer);
	mutex_release(&lock->writers);
	held_pop(lock);
}
