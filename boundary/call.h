/* What a client's system call means: the one entry for libc symbols and for trapped calls. */
#ifndef QUIRE_BOUNDARY_CALL_H
#define QUIRE_BOUNDARY_CALL_H

#include <stdbool.h>

/*
 * The boundary is the system call. A caller hands in the number and the six arguments as the kernel
 * would get them, and receives the kernel's result: a value, or -errno. What decides is the object
 * behind a descriptor, never the name of a function or the spelling of a path.
 *
 * The thread must not be inside a client call (frontend/file/client_call.h): such a call is our
 * own, and the caller forwards it without asking. errno is kept. No lock is held over a call that
 * is forwarded.
 */
struct boundary_call {
	long nr;
	unsigned long args[6];
};

enum boundary_answer {
	BOUNDARY_FORWARD,  /* the call is the kernel's: *result is not set */
	BOUNDARY_ANSWERED, /* the call is done, with *result */
};

/*
 * Answer @call if it is ours. BOUNDARY_FORWARD leaves the caller to make the call in its own way:
 * a libc symbol goes to the function it stands before, a trap to its gate.
 */
enum boundary_answer boundary_try(const struct boundary_call *call, long *result);

/*
 * After BOUNDARY_FORWARD: what the kernel's @result, a value or -errno, means to the client. An
 * open of /dev/kvm that the machine has not got becomes a descriptor here.
 */
long boundary_settle(const struct boundary_call *call, long result);

/* All of it: what is the kernel's goes there by boundary_kernel(). */
long boundary_call(const struct boundary_call *call);

/* Make the system call itself, by the process's own way, which no filter of ours traps. */
long boundary_kernel(const struct boundary_call *call);

/* boundary_kernel() of up to six arguments. */
#define BOUNDARY_KERNEL(number, ...) \
	boundary_kernel(&(const struct boundary_call){.nr = (number), .args = {__VA_ARGS__}})

/* May @nr be ours at all? A fast test without a descriptor: false is final. */
bool boundary_knows(long nr);

#endif
