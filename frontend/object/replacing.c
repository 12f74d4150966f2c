/* The client's calls that take mappings away, against a conversion that changes what they show. */
#include "frontend/object/replacing.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "frontend/object/timers.h"
#include "frontend/param/params.h"
#include "hosts/process/fork.h"
#include "hosts/process/lock.h"

/* Such a call takes microseconds, unless it waits for a userfaultfd reader. */
#define WAIT_NS UINT64_C(2000000000)

/* Guards the list; a conversion holds it while it changes what one mapping shows. */
static struct process_lock replacing_lock;
static struct replacing *calls;
static struct process_event ended;

/* The calls are those of threads that are not here. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&replacing_lock);
	calls = NULL;
}
FORK_CHILD(FORK_REPLACING, replacing_lock, fork_child);

/* Do files convert in this run? The parameter stays as it is, and to find it takes longer than to
 * map. */
static bool is_wanted(void)
{
	static uint32_t known; /* 1 + the value; 0: not asked yet */
	uint32_t seen = __atomic_load_n(&known, __ATOMIC_RELAXED);

	if (!seen) {
		seen = 1 + params_get_bool("kvm.gmem_in_place_conversion");
		__atomic_store_n(&known, seen, __ATOMIC_RELAXED);
	}
	return seen > 1;
}

void replacing_begin(struct replacing *call, uintptr_t start, uintptr_t end)
{
	*call = (struct replacing){.start = start, .end = end};
	if (start >= end || !is_wanted())
		return;
	process_lock_acquire(&replacing_lock);
	call->next = calls;
	call->link = &calls;
	if (calls)
		calls->link = &call->next;
	calls = call;
	process_lock_release(&replacing_lock);
}

void replacing_end(struct replacing *call)
{
	if (!call->link)
		return;
	process_lock_acquire(&replacing_lock);
	*call->link = call->next;
	if (call->next)
		call->next->link = call->link;
	process_lock_release(&replacing_lock);
	process_event_happen(&ended);
}

static bool is_changing_locked(uintptr_t start, uintptr_t end)
{
	for (const struct replacing *call = calls; call; call = call->next)
		if (call->start < end && start < call->end)
			return true;
	return false;
}

int replacing_hold(uintptr_t start, uintptr_t end)
{
	uint64_t until_ns = timers_now_ns() + WAIT_NS;

	process_lock_acquire(&replacing_lock);
	while (is_changing_locked(start, end)) {
		uint32_t seen = process_event_count(&ended);

		process_lock_release(&replacing_lock);
		if (timers_now_ns() >= until_ns)
			return -EAGAIN;
		process_event_wait(&ended, seen, until_ns);
		process_lock_acquire(&replacing_lock);
	}
	return 0;
}

void replacing_hold_anyway(void)
{
	process_lock_acquire(&replacing_lock);
}

void replacing_release(void)
{
	process_lock_release(&replacing_lock);
}
