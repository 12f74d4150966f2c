/* Trapped system calls of the client: which part serves each, and how the client goes on. */
#ifndef QUIRE_ENGINE_TRAP_H
#define QUIRE_ENGINE_TRAP_H

#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

#include "engine/thread.h"

struct trap {
	struct engine_thread *thread;
	ucontext_t *context;
	long number;
	uint64_t args[6];
};

/* How a trap ends. */
enum trap_outcome {
	TRAP_ANSWERED, /* the result is in RAX */
	TRAP_FORWARD,  /* the client makes the call itself, through the gate */
	TRAP_MASKED,   /* the same, with a mask of ours in the room on the client's stack */
};

/* Traps are taken from here on. */
void trap_start(void);

#endif
