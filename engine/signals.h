/*
 * The client's signals, between the kernel and the client.
 *
 * Every handler of the client is ours in the kernel: it runs on the engine's stack, which is the
 * thread's alternate stack for the kernel. Outside the engine it writes the frame that the kernel
 * would have written, where the client wants it, and returns into the client's handler. Inside the
 * engine all signals wait, but during an ioctl of KVM's, which they end (frontend/run/signals.h).
 *
 * SIGSYS is never blocked, or a trap would kill; SIGSEGV, SIGBUS and the kick neither, since the
 * engine's guarded accesses need them. What the client believes to be blocked is remembered.
 */
#ifndef QUIRE_ENGINE_SIGNALS_H
#define QUIRE_ENGINE_SIGNALS_H

#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

#include "engine/thread.h"
#include "hosts/process/internal.h"

#define ENGINE_SIGNALS 65

/* struct sigaction as the kernel has it. */
struct kernel_action {
	uint64_t handler;
	uint64_t flags;
	uint64_t restorer;
	uint64_t mask;
};

/* What the client asked for, under the lock. */
struct engine_actions {
	struct process_lock lock;
	struct kernel_action table[ENGINE_SIGNALS];
};

/* Stand in front: the first thread, before client code runs. 0 or -errno. */
long signals_start(struct engine_thread *thread);

/* A trap arrived: set by engine/trap.c, called with FS still the client's. */
typedef void (*signals_trap_fn)(struct engine_thread *thread, const siginfo_t *info,
				ucontext_t *context);
void signals_set_trap(signals_trap_fn trap);

/* Signals that must reach us, taken out of @mask; the mask that the kernel gets. */
uint64_t signals_strip(uint64_t mask);
/* The client's own mask in the frame of a trap, as it believes it to be; and its change. */
uint64_t signals_mask_get(const struct engine_thread *thread, const ucontext_t *context);
void signals_mask_set(struct engine_thread *thread, ucontext_t *context, uint64_t mask);

/* Let the client's signals in, during an ioctl of KVM's; then hold them off again. */
void signals_let_in(const ucontext_t *context);
void signals_hold_off(void);

/* The client's calls, with arguments as the kernel gets them: a result or -errno. */
long signals_action(struct engine_thread *thread, const uint64_t args[6]);
long signals_procmask(struct engine_thread *thread, ucontext_t *context, const uint64_t args[6]);
long signals_altstack(struct engine_thread *thread, const ucontext_t *context,
		      const uint64_t args[6]);
/* rt_sigreturn: @context becomes what the client's frame says. */
void signals_return(struct engine_thread *thread, ucontext_t *context);

/* A child with actions of its own (no CLONE_SIGHAND); CLONE_CLEAR_SIGHAND sets them to default. */
void signals_copy_actions(struct engine_thread *child, const struct engine_thread *parent);
void signals_clear_actions(struct engine_thread *thread);

#endif
