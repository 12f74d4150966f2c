/* Where in the client's code a thread stands. */
#ifndef QUIRE_SANITIZE_STACK_H
#define QUIRE_SANITIZE_STACK_H

#include <stdint.h>

#include "sanitize/control.h"

/* Addresses alone: quick to take, and to keep with each change. Names come with the report. */
struct sanitize_stack {
	uint32_t tid;
	uint32_t count; /* innermost first; frames of our own are left out */
	/* So many of the innermost tell one place from another: the first of a static program's
	 * call is libc's function. */
	uint32_t place_frames;
	uint64_t frames[SANITIZE_FRAMES];
};

/*
 * Take the running thread's stack: from its call into our code outwards, or from the instruction
 * that raised the signal in whose handler of ours it stands. Some microseconds. Takes no lock and
 * no memory, so it may be called in a signal handler and under any lock. Needs some 2 KiB of stack;
 * a thread on a small stack of signals gets its innermost frame alone.
 *
 * Code made at run time has no unwind information: the stack ends there. A vCPU thread whose guest
 * code was translated takes its stack when it has left that code.
 */
void sanitize_stack_take(struct sanitize_stack *stack);

/*
 * The running thread's stack at its KVM_RUN, kept until the next one of the thread: for detectors
 * that look while guest code runs, below frames of translated code. Code of KVM_RUN takes it where
 * a detector that uses it is on. NULL: it was never taken.
 */
void sanitize_run_begin(void);
const struct sanitize_stack *sanitize_run_stack(void);

/*
 * quire-engine: the client's own frames are not below ours on the stack. Its registers at the call
 * that is being served; a stack that is taken meanwhile goes from there by frame pointers.
 */
struct sanitize_registers {
	uint64_t ip, sp, fp;
	uint32_t place_frames; /* struct sanitize_stack */
};
/* The running thread serves a call made there; NULL: it no longer does. */
void sanitize_stack_begin_at(const struct sanitize_registers *registers);

#endif
