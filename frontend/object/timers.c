/* Timers of a VM's devices: a thread that sleeps until the nearest deadline. */
#include "frontend/object/timers.h"

#include <errno.h>
#include <time.h>

#include "frontend/param/params.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"

uint64_t timers_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t timers_shortest_period_ns(void)
{
	return (uint64_t)params_live(PARAMS_MIN_TIMER_PERIOD_US) * 1000u;
}

void vm_timers_init(struct vm_timers *timers)
{
	*timers = (struct vm_timers){0};
}

void vm_timers_destroy(struct vm_timers *timers)
{
	process_lock_acquire(&timers->lock);
	timers->stopping = true;
	process_event_happen(&timers->changed);
	process_lock_release(&timers->lock);
	if (helper_runs(&timers->thread))
		helper_join(&timers->helper);
}

void vm_timer_add(struct vm_timers *timers, struct vm_timer *timer,
		  void (*fire)(struct vm_timer *timer))
{
	timer->fire = fire;
	timer->deadline_ns = 0;
	process_lock_acquire(&timers->lock);
	timer->next = timers->list;
	timers->list = timer;
	process_lock_release(&timers->lock);
}

/* The armed timer with the earliest deadline, NULL when none is armed. */
static struct vm_timer *nearest(const struct vm_timers *timers)
{
	struct vm_timer *best = NULL;

	for (struct vm_timer *timer = timers->list; timer; timer = timer->next)
		if (timer->deadline_ns && (!best || timer->deadline_ns < best->deadline_ns))
			best = timer;
	return best;
}

/* When @timer is due, or when another was armed. The lock is released meanwhile. */
static void wait_locked(struct vm_timers *timers, const struct vm_timer *timer)
{
	uint32_t seen = process_event_count(&timers->changed);

	timers->until_ns = timer ? timer->deadline_ns : PROCESS_EVENT_FOREVER;
	process_lock_release(&timers->lock);
	process_event_wait(&timers->changed, seen,
			   timer ? timer->deadline_ns : PROCESS_EVENT_FOREVER);
	process_lock_acquire(&timers->lock);
	timers->until_ns = 0;
}

static void *timer_thread(void *argument)
{
	struct vm_timers *timers = argument;

	process_lock_acquire(&timers->lock);
	while (!timers->stopping) {
		struct vm_timer *timer = nearest(timers);

		if (!timer || timer->deadline_ns > timers_now_ns()) {
			wait_locked(timers, timer);
			continue;
		}
		timer->deadline_ns = 0;
		process_lock_release(&timers->lock);
		timer->fire(timer);
		process_lock_acquire(&timers->lock);
	}
	process_lock_release(&timers->lock);
	return NULL;
}

int vm_timers_start(struct vm_timers *timers)
{
	/* Whatever there is too little of: KVM has no thread here, but memory to allocate. */
	if (helper_start_once(&timers->thread, &timers->helper, timer_thread, timers))
		return -ENOMEM;
	return 0;
}

void vm_timer_arm(struct vm_timers *timers, struct vm_timer *timer, uint64_t deadline_ns)
{
	if (deadline_ns)
		(void)helper_try_once(&timers->thread, &timers->helper, timer_thread, timers);
	process_lock_acquire(&timers->lock);
	timer->deadline_ns = deadline_ns;
	/* Later than what the thread sleeps for: it finds out when it wakes. */
	if (deadline_ns && deadline_ns < timers->until_ns)
		process_event_happen(&timers->changed);
	process_lock_release(&timers->lock);
}
