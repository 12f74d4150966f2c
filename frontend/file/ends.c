/* Files that ended and are not released yet: a list in the order in which the ends were noticed. */
#include "frontend/file/ends.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "hosts/process/fork.h"
#include "hosts/process/lock.h"

/* A release may report to a pipe that the waiting thread itself reads (sanitize/report.c). */
#define WAIT_NS UINT64_C(5000000000)

static struct process_lock ends_lock;
static struct file_end *ends; /* under ends_lock, as its tail */
static struct file_end **ends_tail = &ends;
static uint64_t count;		     /* atomic; written under ends_lock */
static uint32_t open_count;	     /* atomic */
static struct process_event removed; /* happens under ends_lock */

/* The child of a fork: the threads that were releasing are the parent's, as the files are. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&ends_lock);
	ends = NULL;
	ends_tail = &ends;
	__atomic_store_n(&open_count, 0, __ATOMIC_RELAXED);
}
FORK_CHILD(FORK_ENDS, ends_lock, fork_child);

void ends_add(struct file_end *end, dev_t device, ino_t inode)
{
	process_lock_acquire(&ends_lock);
	*end = (struct file_end){
	    .device = device, .inode = inode, .number = count + 1, .link = ends_tail};
	*ends_tail = end;
	ends_tail = &end->next;
	__atomic_store_n(&count, end->number, __ATOMIC_RELEASE);
	process_lock_release(&ends_lock);
}

void ends_begin(void)
{
	__atomic_fetch_add(&open_count, 1, __ATOMIC_SEQ_CST);
}

void ends_finish(void)
{
	__atomic_fetch_sub(&open_count, 1, __ATOMIC_SEQ_CST);
}

bool ends_any(void)
{
	return __atomic_load_n(&open_count, __ATOMIC_ACQUIRE) != 0;
}

uint64_t ends_count(void)
{
	return __atomic_load_n(&count, __ATOMIC_ACQUIRE);
}

static bool is_of_call(const struct file_end *end, const struct file_ending *call)
{
	return call && end->number > call->after &&
	       (!call->is_one || (end->device == call->device && end->inode == call->inode));
}

static struct file_end *find_waiting(const struct end_duty *duty)
{
	struct file_end *end = ends;

	while (end && (end->state != END_WAITS ||
		       (!is_of_call(end, duty->call) &&
			(end->number <= duty->after || end->number > duty->to))))
		end = end->next;
	return end;
}

static bool any_in_work(const struct file_ending *call)
{
	const struct file_end *end = ends;

	while (end && (end->state != END_IN_WORK || !is_of_call(end, call)))
		end = end->next;
	return end != NULL;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Until something is removed, or @until_ns. False: it is later. The lock is released meanwhile. */
static bool wait_locked(uint64_t until_ns)
{
	uint32_t seen = process_event_count(&removed);

	if (now_ns() >= until_ns)
		return false;
	process_lock_release(&ends_lock);
	process_event_wait(&removed, seen, until_ns);
	process_lock_acquire(&ends_lock);
	return true;
}

struct file_end *ends_take(const struct end_duty *duty)
{
	uint64_t until_ns = 0;
	struct file_end *end;

	process_lock_acquire(&ends_lock);
	while (!(end = find_waiting(duty)) && any_in_work(duty->call)) {
		if (!until_ns)
			until_ns = now_ns() + WAIT_NS;
		if (!wait_locked(until_ns))
			break;
	}
	if (end)
		end->state = END_IN_WORK;
	process_lock_release(&ends_lock);
	return end;
}

void ends_remove(struct file_end *end)
{
	process_lock_acquire(&ends_lock);
	*end->link = end->next;
	if (end->next)
		end->next->link = end->link;
	else
		ends_tail = end->link;
	ends_finish();
	process_event_happen(&removed);
	process_lock_release(&ends_lock);
}
