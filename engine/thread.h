/*
 * A thread of the client as the engine sees it: a stack and a libc of the engine's own.
 *
 * The engine is a program of its own in the client's process: its libc has its own malloc, locks
 * and thread-local storage, and shares nothing with the client's. So each client thread has a
 * partner: a thread pointer (FS base) of the engine's libc, and a stack. The stack is the thread's
 * alternate signal stack in the kernel, so a trap finds its thread in the frame that the kernel
 * writes there. The client's own alternate stack is only remembered (engine/signals.h).
 *
 * Fields without a letter never change while the thread runs. [O] read and written by the thread
 * itself, [P] under the pool's lock.
 */
#ifndef QUIRE_ENGINE_THREAD_H
#define QUIRE_ENGINE_THREAD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

struct engine_actions;

struct engine_thread {
	uint64_t engine_fs;
	uint64_t stack_base, stack_bytes;
	struct engine_actions *actions; /* threads that share handlers share this */
	struct engine_actions *own_actions;
	int tid;	      /* [P] 0: in no use */
	int pid;	      /* [P] its process: several may share the memory */
	uint64_t client_fs;   /* [O] true while depth is not 0 */
	uint32_t depth;	      /* [O] not 0: inside the engine, FS is the engine's */
	uint64_t hidden_mask; /* [O] signals the client believes to be blocked, and which are not */
	uint64_t alt_base, alt_bytes; /* [O] the client's alternate stack */
	int alt_flags;		      /* [O] SS_DISABLE, SS_AUTODISARM, 0 */
	/* [O] mapped by an exec of a vfork child, which shares the memory; its parent's to unmap.
	 */
	void *exec_room;
	uint64_t exec_room_bytes;
	struct engine_thread *next; /* [P] */
};

/* The running thread, inside the engine; NULL: one of the engine's own. */
extern _Thread_local struct engine_thread *thread_self __attribute__((tls_model("initial-exec")));

/* The thread pointer. */
uint64_t thread_fs_read(void);
void thread_fs_write(uint64_t base);
/* A trap on its way in and out: the engine's thread pointer in the place of the client's. */
void thread_enter(struct engine_thread *thread);
void thread_leave(struct engine_thread *thread);

/* The thread whose frame is @context; NULL: one that the engine's libc made for itself. */
struct engine_thread *thread_of(const ucontext_t *context);

/* For the first thread. NULL: no memory. */
struct engine_thread *thread_make_first(void);
/* A partner for a thread or a vfork child that is about to start; NULL: no memory. */
struct engine_thread *thread_take(void);
/* The child never started, or ended (a vfork child). */
void thread_put(struct engine_thread *thread);
/* The running thread is @thread's from now on: called with the engine's thread pointer set. */
void thread_adopt(struct engine_thread *thread);
/* The running thread ends: its partner may be used again once the kernel has let it go. */
__attribute__((noreturn)) void thread_end(struct engine_thread *thread, uint64_t status);
/* In the child of a fork: @thread is all there is. */
void thread_forked(struct engine_thread *thread);

/* The engine's alternate stack for the kernel. 0 or -errno. */
long thread_arm(const struct engine_thread *thread);

#endif
