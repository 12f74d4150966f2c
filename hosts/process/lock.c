/* Small locks: two states and a futex. Events: a count and a futex. */
#include "hosts/process/lock.h"

#include <limits.h>
#include <linux/futex.h>
#include <time.h>

#include "hosts/process/sys.h"

enum { LOCK_FREE, LOCK_TAKEN, LOCK_WAITED_FOR };

bool process_lock_try(struct process_lock *lock)
{
	uint32_t seen = LOCK_FREE;

	return __atomic_compare_exchange_n(&lock->taken, &seen, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

void process_lock_acquire(struct process_lock *lock)
{
	if (process_lock_try(lock))
		return;
	/* From here on each release must wake a waiter: this thread's, too, when it gets the lock.
	 */
	while (__atomic_exchange_n(&lock->taken, LOCK_WAITED_FOR, __ATOMIC_ACQUIRE) != LOCK_FREE)
		sys_call(SYS_futex, sys_address(&lock->taken), FUTEX_WAIT_PRIVATE, LOCK_WAITED_FOR);
}

bool process_lock_start_anew(struct process_lock *lock)
{
	return __atomic_exchange_n(&lock->taken, LOCK_FREE, __ATOMIC_RELAXED) != LOCK_FREE;
}

void process_lock_release(struct process_lock *lock)
{
	if (__atomic_exchange_n(&lock->taken, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_WAITED_FOR)
		sys_call(SYS_futex, sys_address(&lock->taken), FUTEX_WAKE_PRIVATE, 1);
}

uint32_t process_event_count(const struct process_event *event)
{
	return __atomic_load_n(&event->count, __ATOMIC_ACQUIRE);
}

void process_event_wait(struct process_event *event, uint32_t seen, uint64_t until_ns)
{
	const struct timespec until = {
	    .tv_sec = (time_t)(until_ns / 1000000000u),
	    .tv_nsec = (long)(until_ns % 1000000000u),
	};

	/* FUTEX_WAIT would take a duration: FUTEX_WAIT_BITSET takes a time of CLOCK_MONOTONIC. */
	sys_call(SYS_futex, sys_address(&event->count), FUTEX_WAIT_BITSET_PRIVATE, seen,
		 until_ns == PROCESS_EVENT_FOREVER ? 0 : sys_address(&until), 0,
		 FUTEX_BITSET_MATCH_ANY);
}

void process_event_happen(struct process_event *event)
{
	__atomic_fetch_add(&event->count, 1, __ATOMIC_RELEASE);
	sys_call(SYS_futex, sys_address(&event->count), FUTEX_WAKE_PRIVATE, INT_MAX);
}
