/* Timers of a VM's devices: a thread that sleeps until the nearest deadline. */
#include "frontend/object/timers.h"

#include <errno.h>
#include <time.h>

#include "hosts/process/helper.h"

uint64_t timers_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int vm_timers_init(struct vm_timers *timers)
{
	pthread_condattr_t attributes;

	if (pthread_condattr_init(&attributes))
		return -ENOMEM;
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&timers->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&timers->lock, NULL);
	timers->list = NULL;
	timers->until_ns = 0;
	timers->started = false;
	timers->stopping = false;
	return 0;
}

void vm_timers_destroy(struct vm_timers *timers)
{
	pthread_mutex_lock(&timers->lock);
	timers->stopping = true;
	pthread_cond_signal(&timers->changed);
	pthread_mutex_unlock(&timers->lock);
	if (timers->started)
		pthread_join(timers->thread, NULL);
	pthread_cond_destroy(&timers->changed);
	pthread_mutex_destroy(&timers->lock);
}

void vm_timer_add(struct vm_timers *timers, struct vm_timer *timer,
		  void (*fire)(struct vm_timer *timer))
{
	timer->fire = fire;
	timer->deadline_ns = 0;
	pthread_mutex_lock(&timers->lock);
	timer->next = timers->list;
	timers->list = timer;
	pthread_mutex_unlock(&timers->lock);
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

static void *timer_thread(void *argument)
{
	struct vm_timers *timers = argument;

	pthread_mutex_lock(&timers->lock);
	while (!timers->stopping) {
		struct vm_timer *timer = nearest(timers);

		if (!timer) {
			timers->until_ns = UINT64_MAX;
			pthread_cond_wait(&timers->changed, &timers->lock);
		} else if (timer->deadline_ns <= timers_now_ns()) {
			timer->deadline_ns = 0;
			pthread_mutex_unlock(&timers->lock);
			timer->fire(timer);
			pthread_mutex_lock(&timers->lock);
		} else {
			struct timespec until = {
			    .tv_sec = (time_t)(timer->deadline_ns / 1000000000u),
			    .tv_nsec = (long)(timer->deadline_ns % 1000000000u),
			};

			timers->until_ns = timer->deadline_ns;
			pthread_cond_timedwait(&timers->changed, &timers->lock, &until);
		}
		timers->until_ns = 0;
	}
	pthread_mutex_unlock(&timers->lock);
	return NULL;
}

void vm_timer_arm(struct vm_timers *timers, struct vm_timer *timer, uint64_t deadline_ns)
{
	pthread_mutex_lock(&timers->lock);
	timer->deadline_ns = deadline_ns;
	if (deadline_ns && !timers->started)
		timers->started = !helper_start(&timers->thread, timer_thread, timers);
	/* Later than what the thread sleeps for: it finds out when it wakes. */
	if (deadline_ns && deadline_ns < timers->until_ns)
		pthread_cond_signal(&timers->changed);
	pthread_mutex_unlock(&timers->lock);
}
