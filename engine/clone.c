/*
 * New threads and processes of the client's.
 *
 * A child that shares memory (a thread, vfork, posix_spawn) gets a partner first. It starts in the
 * engine, on the engine's stack, with all signals blocked, and goes to the client by a return from
 * a signal: the frame is the parent's trap with RAX and RSP of the child's, so registers, mask and
 * alternate stack are in place in one step, before the client's first instruction.
 *
 * A child with memory of its own (fork) has a copy of the parent's trap and returns from it.
 */
#include "engine/clone.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine/gate.h"
#include "engine/libc.h"
#include "engine/signals.h"
#include "engine/user.h"
#include "frontend/report/report.h"
#include "hosts/process/sys.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#endif
#define CONTEXT_BYTES (offsetof(ucontext_t, uc_sigmask) + sizeof(uint64_t))
#define STATE_BYTES_MAX 16384u

/* struct clone_args, by the words that we look at. */
enum {
	ARGS_FLAGS,
	ARGS_PIDFD,
	ARGS_CHILD_TID,
	ARGS_PARENT_TID,
	ARGS_EXIT_SIGNAL,
	ARGS_STACK,
	ARGS_STACK_BYTES,
	ARGS_TLS,
	ARGS_WORDS = 32
};
#define ARGS_BYTES_MIN 64u

/* What the client asks for, whichever call it makes. */
struct request {
	uint64_t flags;
	uint64_t stack; /* the child's first RSP; 0: the parent's */
	uint64_t tls;
	/* The call to make; of clone3 a copy of the arguments. */
	struct libc_fork call;
	uint64_t words[ARGS_WORDS];
};

/* What a child that shares memory finds on its engine stack. */
struct child {
	struct engine_thread *thread;
	uint64_t client_fs;
	const void *context;
	bool clears_actions;
};

void engine_child_start(const struct child *child);

static long request_read_clone3(struct request *request, const struct trap *trap)
{
	size_t bytes = trap->args[1];

	if (bytes < ARGS_BYTES_MIN)
		return -EINVAL;
	if (bytes > sizeof(request->words))
		return -E2BIG;
	if (user_read(request->words, trap->args[0], bytes))
		return -EFAULT;
	request->flags = request->words[ARGS_FLAGS];
	request->tls = request->words[ARGS_TLS];
	if (request->words[ARGS_STACK])
		request->stack = request->words[ARGS_STACK] + request->words[ARGS_STACK_BYTES];
	request->words[ARGS_FLAGS] &= ~(uint64_t)CLONE_CLEAR_SIGHAND;
	request->call.number = SYS_clone3;
	request->call.args[0] = sys_address(request->words);
	request->call.args[1] = bytes;
	return 0;
}

static long request_read(struct request *request, const struct trap *trap)
{
	memset(request, 0, sizeof(*request));
	request->call.number = SYS_clone;
	switch (trap->number) {
	case SYS_clone3:
		return request_read_clone3(request, trap);
	case SYS_fork:
		request->call.args[0] = SIGCHLD;
		return 0;
	case SYS_vfork:
		request->flags = CLONE_VM | CLONE_VFORK;
		request->call.args[0] = CLONE_VM | CLONE_VFORK | SIGCHLD;
		return 0;
	default:
		memcpy(request->call.args, trap->args, sizeof(request->call.args));
		request->flags = trap->args[0] & 0xffffffffu;
		request->stack = trap->args[1];
		request->tls = trap->args[4];
		return 0;
	}
}

/* The stack that the kernel gives the child. */
static void request_set_stack(struct request *request, uint64_t base, uint64_t top)
{
	if (request->call.number == SYS_clone) {
		request->call.args[1] = top;
		return;
	}
	request->words[ARGS_STACK] = top ? base : 0;
	request->words[ARGS_STACK_BYTES] = top ? top - base : 0;
}

static size_t state_bytes(const void *state)
{
	uint32_t words[2];

	memcpy(words, (const uint8_t *)state + 464, sizeof(words));
	return words[0] == 0x46505853u ? words[1] : 512;
}

/* Lay the child's first frame at the top of its stack; the result is the kernel's RSP for it. */
static uint64_t child_frame(const struct request *request, const struct trap *trap,
			    struct engine_thread *thread)
{
	uint64_t at = thread->stack_base + thread->stack_bytes;
	const void *state = trap->context->uc_mcontext.fpregs;
	size_t bytes = state ? state_bytes(state) : 0;
	ucontext_t *context;
	struct child *child;

	at = (at - bytes) & ~UINT64_C(63);
	memcpy((void *)at, state, bytes);
	context = (ucontext_t *)((at - CONTEXT_BYTES - 64) & ~UINT64_C(15));
	memcpy(context, trap->context, CONTEXT_BYTES);
	context->uc_mcontext.fpregs = bytes ? (fpregset_t)at : NULL;
	context->uc_stack =
	    (stack_t){.ss_sp = (void *)thread->stack_base, .ss_size = thread->stack_bytes};
	context->uc_mcontext.gregs[REG_RAX] = 0;
	if (request->stack)
		context->uc_mcontext.gregs[REG_RSP] = (greg_t)request->stack;
	child = (struct child *)(((uint64_t)context - sizeof(*child)) & ~UINT64_C(15));
	*child = (struct child){.thread = thread, .context = context};
	child->clears_actions = (request->flags & CLONE_CLEAR_SIGHAND) != 0;
	child->client_fs = request->flags & CLONE_SETTLS ? request->tls : trap->thread->client_fs;
	/* The start pops this word, and calls with an aligned stack. */
	at = (uint64_t)child - 8;
	*(struct child **)at = child;
	return at;
}

/* The child's first steps. FS is the client's or the parent's partner's until it is set. */
void engine_child_start(const struct child *child)
{
	struct engine_thread *thread = child->thread;

	thread_fs_write(thread->engine_fs);
	thread_adopt(thread);
	if (child->clears_actions)
		signals_clear_actions(thread);
	thread->client_fs = child->client_fs;
	thread_leave(thread);
	gate_resume(child->context);
}

/* A child in this memory. */
static long clone_sharing(struct request *request, struct trap *trap)
{
	struct engine_thread *thread = thread_take(), *parent = trap->thread;
	uint64_t top;
	long result;

	if (!thread)
		return -EAGAIN;
	if (request->flags & CLONE_SIGHAND)
		thread->actions = parent->actions;
	else
		signals_copy_actions(thread, parent);
	thread->hidden_mask = parent->hidden_mask;
	if ((request->flags & (CLONE_VM | CLONE_VFORK)) != CLONE_VM) {
		thread->alt_base = parent->alt_base;
		thread->alt_bytes = parent->alt_bytes;
		thread->alt_flags = parent->alt_flags;
	}
	top = child_frame(request, trap, thread);
	request_set_stack(request, thread->stack_base, top);
	result = gate_clone(request->call.number, request->call.args);
	/* A vfork child has ended, or is another program, by now. */
	if (result < 0 || (request->flags & CLONE_VFORK))
		thread_put(thread);
	return result;
}

static long clone_forking(struct request *request, struct trap *trap)
{
	long result;

	request_set_stack(request, 0, 0);
	/* The child returns from its copy of the trap: its thread pointer is set there. */
	if (request->call.number == SYS_clone)
		request->call.args[0] &= ~(uint64_t)CLONE_SETTLS;
	else
		request->words[ARGS_FLAGS] &= ~(uint64_t)CLONE_SETTLS;
	request->call.flags = request->flags;
	result = libc_fork(&request->call);
	if (result)
		return result;
	thread_forked(trap->thread);
	if (request->stack)
		trap->context->uc_mcontext.gregs[REG_RSP] = (greg_t)request->stack;
	if (request->flags & CLONE_SETTLS)
		trap->thread->client_fs = request->tls;
	if (request->flags & CLONE_CLEAR_SIGHAND)
		signals_clear_actions(trap->thread);
	return 0;
}

long clone_serve(struct trap *trap)
{
	struct request request;
	long error = request_read(&request, trap);

	if (error)
		return error;
	return request.flags & CLONE_VM ? clone_sharing(&request, trap)
					: clone_forking(&request, trap);
}
