/* The small lock of this folder: two states and a futex. */
#include <linux/futex.h>

#include "hosts/process/internal.h"
#include "hosts/process/sys.h"

enum { LOCK_FREE, LOCK_TAKEN, LOCK_WAITED_FOR };

void process_lock_acquire(struct process_lock *lock)
{
	uint32_t seen = LOCK_FREE;

	if (__atomic_compare_exchange_n(&lock->taken, &seen, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE,
					__ATOMIC_RELAXED))
		return;
	/* From here on whoever releases must wake: this thread, too, when it gets the lock. */
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
