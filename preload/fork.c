/* Forks that pass pthread_atfork() by. */
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/types.h>

#include "hosts/process/fork.h"
#include "hosts/process/helper.h"
#include "preload/coverage.h"
#include "preload/real.h"

pid_t _Fork(void);

INTERPOSED pid_t _Fork(void)
{
	pid_t pid;

	process_fork_before();
	pid = REAL(_Fork)();
	if (pid)
		process_fork_parent();
	else
		process_fork_child(0);
	return pid;
}

/* On the stack of the caller of clone(), of which the child has a copy. */
struct clone_start {
	int (*function)(void *argument);
	void *argument;
	unsigned int flags;
};

static int clone_child(void *opaque)
{
	const struct clone_start *start = opaque;
	int status;

	process_fork_child(start->flags);
	status = start->function(start->argument);
	/* libc's clone() ends the thread by the system call, and runs nothing for its end. */
	coverage_keep();
	helper_leader_leaves();
	return status;
}

/* Threads and vfork's kin share the memory, and with it the locks: they are no forks. */
INTERPOSED int clone(int (*function)(void *argument), void *stack, int flags, void *argument, ...)
{
	struct clone_start start = {function, argument, (unsigned int)flags};
	void *parent_tid, *tls, *child_tid;
	va_list rest;
	int pid;

	va_start(rest, argument);
	parent_tid = va_arg(rest, void *);
	tls = va_arg(rest, void *);
	child_tid = va_arg(rest, void *);
	va_end(rest);
	if ((flags & CLONE_VM) || !function || !stack)
		return REAL(clone)(function, stack, flags, argument, parent_tid, tls, child_tid);
	process_fork_before();
	pid = REAL(clone)(clone_child, stack, flags, &start, parent_tid, tls, child_tid);
	process_fork_parent();
	return pid;
}
