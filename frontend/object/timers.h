/* Timers of a VM's devices: one thread a VM. */
#ifndef QUIRE_FRONTEND_OBJECT_TIMERS_H
#define QUIRE_FRONTEND_OBJECT_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/helper.h"
#include "hosts/process/lock.h"

/*
 * A timer belongs to its device and is never freed while its VM lives. fire() is called on the
 * timer thread with no lock of the timers held; it may arm the timer again.
 */
struct vm_timer {
	struct vm_timer *next;
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: not armed */
	void (*fire)(struct vm_timer *timer);
};

struct vm_timers {
	struct process_lock lock;
	struct process_event changed;
	struct vm_timer *list;
	uint64_t until_ns; /* when the thread wakes by itself; 0: it is awake and will look */
	struct helper helper;
	struct helper_once thread;
	bool stopping;
};

void vm_timers_init(struct vm_timers *timers);
/* Ends the thread. By the process that made them: files are never released in a forked child. */
void vm_timers_destroy(struct vm_timers *timers);
void vm_timer_add(struct vm_timers *timers, struct vm_timer *timer,
		  void (*fire)(struct vm_timer *timer));
/*
 * Start the thread: what makes a device with timers calls this, and fails as it does (-ENOMEM). So
 * arming a timer of the device cannot fail, as in KVM, also in KVM_RUN, where a client's own filter
 * may let no thread be made.
 */
int vm_timers_start(struct vm_timers *timers);
/*
 * Fire once at @deadline_ns (in the past: soon); 0 disarms. Any thread; callers may hold a device's
 * lock. A timer of no device, which a write to a parameter arms, tries to start the thread, and
 * where there is none waits for the next that is armed.
 */
void vm_timer_arm(struct vm_timers *timers, struct vm_timer *timer, uint64_t deadline_ns);

/* CLOCK_MONOTONIC. */
uint64_t timers_now_ns(void);
/* Periodic timers that are armed now tick no more often: a guest must not starve its host. */
uint64_t timers_shortest_period_ns(void);

#endif
