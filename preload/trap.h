/* System calls that a dynamic program makes by an instruction of its own, past libc's functions. */
#ifndef QUIRE_PRELOAD_TRAP_H
#define QUIRE_PRELOAD_TRAP_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "boundary/call.h"

/*
 * The kernel's system call user dispatch lets pass what comes from libc's code and raises SIGSYS
 * for the rest. It is of a thread: exec, fork and clone begin without it. So no other program ever
 * sees a trap, and a thread that the client makes without libc has none (docs/decisions/0010).
 */

/* From the constructor. Where the kernel has no such dispatch, nothing changes. */
void trap_start(void);
bool trap_is_started(void);

/* The running thread's calls are trapped from here on. */
void trap_arm(void);

/* Calls from these addresses pass: the first, and how many. */
extern uint64_t trap_passing[2] __attribute__((visibility("hidden")));

/* One trapped call: its answer goes into the frame of the signal. */
struct trap {
	struct boundary_call call;
	ucontext_t *context;
};

/* "syscall; ret" in libc's code, where the kernel lets calls pass. */
uint64_t trap_gate(void);

/* libc's return from a signal: a move of seven bytes, and rt_sigreturn. */
uint64_t trap_restorer(void);

/* The running thread makes the system call exit. */
void trap_leave_thread(void);
/*
 * Does fork, clone or clone3 make a child with a copy of the memory, which goes on on its parent's
 * stack, with its parent's variables? Then @flags are its flags.
 */
bool trap_is_plain_fork(const struct boundary_call *call, uint64_t *flags);
/* New processes and threads, and execve. False: it is another call. */
bool trap_serve_process(struct trap *trap, long *result);
/* A filter of system calls is installed. False: it is another call. */
bool trap_serve_filter(const struct boundary_call *call, long *result);
/* Calls that change actions or wait with a mask. False: it is another call. */
bool trap_serve_actions(const struct boundary_call *call, long *result);
/* Calls that change actions, masks and stacks, or wait with a mask. False: it is another call. */
bool trap_serve_signals(struct trap *trap, long *result);

/* No result is written: the frame says where the thread goes on. */
#define TRAP_GOES_ON INT64_MIN

#endif
