/* Small locks and events. They wait at the gate: a client's filter of system calls lets it pass. */
#ifndef QUIRE_HOSTS_PROCESS_LOCK_H
#define QUIRE_HOSTS_PROCESS_LOCK_H

#include <stdbool.h>
#include <stdint.h>

/* A mutex; all zeros is a free one. hosts/process/fork.h says what a child of fork() does with it.
 */
struct process_lock {
	uint32_t taken;
};

void process_lock_acquire(struct process_lock *lock);
/* For a signal handler, whose own thread may hold it: false, and at once, where it is taken. */
bool process_lock_try(struct process_lock *lock);
void process_lock_release(struct process_lock *lock);

/* In the child of a fork: free again. Returns whether a thread that is not here held it. */
bool process_lock_start_anew(struct process_lock *lock);

/* What a thread waits for that has nothing to do; all zeros is one that has not happened. */
struct process_event {
	uint32_t count;
};

#define PROCESS_EVENT_FOREVER UINT64_MAX

/*
 * How often it happened. The caller reads it under the lock that guards what it is about, releases
 * the lock and waits: what happens between is seen.
 */
uint32_t process_event_count(const struct process_event *event);
/* Wait until it happens once more than @seen, @until_ns (CLOCK_MONOTONIC), or without a reason. */
void process_event_wait(struct process_event *event, uint32_t seen, uint64_t until_ns);
/* It happens. Wakes all that wait. */
void process_event_happen(struct process_event *event);

#endif
