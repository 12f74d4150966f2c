/* Threads of Quire's own in the client's process. */
#ifndef QUIRE_HOSTS_PROCESS_HELPER_H
#define QUIRE_HOSTS_PROCESS_HELPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/lock.h"

struct helper {
	pthread_t thread;
	void *stack;
	uint64_t stack_bytes;
};

/*
 * Starts a thread with every signal blocked, for the client's handlers must run on no thread that
 * the client does not know. @helper is the caller's to helper_join(); with NULL the thread runs as
 * long as the process. Returns 0 or -errno.
 *
 * The kernel has no such threads, so they keep no process alive: when the client's own threads have
 * ended, the first by the system call exit or by pthread_exit(), the process ends, too. Its status
 * is then the first thread's, or that of exit(0) where libc would have called it.
 */
int helper_start(struct helper *helper, void *(*function)(void *), void *argument);
/* A thread that is started at most once; all zeros is one that was not. */
struct helper_once {
	uint32_t state; /* [A] enum once_state */
	struct process_event changed;
};

/*
 * helper_start(), unless the thread was started before. No lock may be held: libc's
 * pthread_create() waits for a fork() in progress, which may wait for a userfaultfd reader, which
 * may want the lock. Waits while another thread starts it; 0, too, when that one has. A start that
 * failed is tried anew by the next call.
 */
int helper_start_once(struct helper_once *once, struct helper *helper, void *(*function)(void *),
		      void *argument);
/* The same without waiting: -EAGAIN while another thread starts it. */
int helper_try_once(struct helper_once *once, struct helper *helper, void *(*function)(void *),
		    void *argument);
/* Was it started? */
bool helper_runs(const struct helper_once *once);
/* In the child of a fork, where the thread is not. */
void helper_once_forget(struct helper_once *once);

/*
 * The first thread ends by the system call exit now, which runs none of exit(3)'s functions: then
 * none are run for the process either. By that thread.
 */
void helper_leader_leaves(void);
/* Waits for its end. */
void helper_join(const struct helper *helper);

/*
 * Calls @function in a thread with descriptors of its own, none at first, and waits: what it opens
 * takes no number of the client's. Without a thread, or before Linux 5.9, it does take one.
 */
void helper_apart(void (*function)(void *argument), void *argument);

#endif
