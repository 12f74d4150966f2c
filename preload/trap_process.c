/*
 * Trapped calls that make a process or a thread, or end in another program.
 *
 * A child with memory of its own is made in the handler, around what pthread_atfork() would run,
 * and returns from its copy of the frame. One that shares memory cannot share the handler's stack:
 * the client makes the call itself, at the gate, and each comes back by what is on its stack.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "frontend/file/user_copy.h"
#include "hosts/process/fork.h"
#include "hosts/process/helper.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "preload/coverage.h"
#include "preload/exit.h"
#include "preload/numbered.h"
#include "preload/trap.h"

/* struct clone_args, by the words that we look at. */
enum { ARGS_FLAGS, ARGS_STACK = 5, ARGS_STACK_BYTES, ARGS_WORDS = 16 };
#define ARGS_BYTES_MIN 64u

/*
 * What each side finds on its stack when the gate returns: where it goes on, and with which stack
 * pointer. It is below the client's red zone; but a child of vfork() uses the same stack while its
 * parent waits, so there it is on a stack of the thread's for that alone.
 */
struct room {
	uint64_t back; /* trap_back() */
	uint64_t target, stack;
	uint64_t words[ARGS_WORDS]; /* the arguments of clone3 */
};
#define ROOM_BYTES 512u
#define VFORK_STACK_BYTES (UINT64_C(64) << 10)
_Static_assert(sizeof(struct room) + 128 <= ROOM_BYTES, "the red zone stays");

/* Made at the first vfork(), and kept while the thread lives. */
static _Thread_local uint64_t vfork_stack __attribute__((tls_model("initial-exec")));

void trap_back(void);
__asm__(".pushsection .text\n\t.hidden trap_back\n\t.globl trap_back\n\t"
	".type trap_back, @function\n"
	"trap_back:\n\t"
	"movq (%rsp), %rcx\n\t"
	"movq 8(%rsp), %rsp\n\t"
	"jmp *%rcx\n\t"
	".size trap_back, . - trap_back\n\t.popsection\n");

/*
 * The same after vfork(). The child's calls are trapped again: it has its parent's thread pointer,
 * which has no other user meanwhile. (A thread that is made so has none of libc's.)
 */
void trap_back_vfork(void);
__asm__(".pushsection .text\n\t.hidden trap_back_vfork\n\t.globl trap_back_vfork\n\t"
	".type trap_back_vfork, @function\n"
	"trap_back_vfork:\n\t"
	"testq %rax, %rax\n\t"
	"jnz trap_back\n\t"
	"leaq -256(%rsp), %rsp\n\t" /* the parent's room stays */
	"pushq %rdi\n\tpushq %rsi\n\tpushq %rdx\n\tpushq %r10\n\tpushq %r8\n\t"
	"movl $157, %eax\n\t" /* prctl */
	"movl $59, %edi\n\t"  /* PR_SET_SYSCALL_USER_DISPATCH */
	"movl $1, %esi\n\t"
	"movq trap_passing(%rip), %rdx\n\t"
	"movq 8+trap_passing(%rip), %r10\n\t"
	"xorl %r8d, %r8d\n\t"
	"syscall\n\t"
	"popq %r8\n\tpopq %r10\n\tpopq %rdx\n\tpopq %rsi\n\tpopq %rdi\n\t"
	"leaq 256(%rsp), %rsp\n\t"
	"xorl %eax, %eax\n\t"
	"jmp trap_back\n\t"
	".size trap_back_vfork, . - trap_back_vfork\n\t.popsection\n");

/* What the client asks for, by whichever call. */
struct request {
	struct boundary_call call;
	uint64_t words[ARGS_WORDS]; /* of clone3 */
	size_t bytes;
	uint64_t flags;
	uint64_t stack; /* the child's first RSP; 0: the parent's */
};

static long request_read(struct request *request, const struct boundary_call *call)
{
	memset(request, 0, sizeof(*request));
	request->call.nr = SYS_clone;
	request->call.args[0] = SIGCHLD;
	switch (call->nr) {
	case SYS_fork:
		break;
	case SYS_vfork:
		request->call.args[0] |= CLONE_VM | CLONE_VFORK;
		break;
	case SYS_clone:
		request->call = *call;
		request->stack = call->args[1];
		break;
	default:
		request->bytes = call->args[1];
		if (request->bytes < ARGS_BYTES_MIN)
			return -EINVAL;
		if (request->bytes > sizeof(request->words))
			return -E2BIG;
		if (user_peek(request->words, call->args[0], request->bytes))
			return -EFAULT;
		request->call = *call;
		request->flags = request->words[ARGS_FLAGS];
		if (request->words[ARGS_STACK])
			request->stack =
			    request->words[ARGS_STACK] + request->words[ARGS_STACK_BYTES];
		return 0;
	}
	request->flags = request->call.args[0];
	return 0;
}

bool trap_is_plain_fork(const struct boundary_call *call, uint64_t *flags)
{
	struct request request;
	bool is_plain = !request_read(&request, call) && !request.stack &&
			!(request.flags & (CLONE_VM | CLONE_SETTLS));

	*flags = request.flags;
	return is_plain;
}

static long make_forked(struct request *request, struct trap *trap)
{
	long result;

	/* The child returns from this handler, with libc's thread pointer. */
	if (request->call.nr == SYS_clone) {
		request->call.args[0] &= ~(unsigned long)CLONE_SETTLS;
		request->call.args[1] = 0;
	} else {
		request->words[ARGS_FLAGS] &= ~(uint64_t)CLONE_SETTLS;
		request->words[ARGS_STACK] = request->words[ARGS_STACK_BYTES] = 0;
		request->call.args[0] = sys_address(request->words);
	}
	process_fork_before();
	result = sys_call_six(request->call.nr, request->call.args);
	if (result) {
		process_fork_parent();
		return result;
	}
	process_fork_child(request->flags);
	if (request->stack)
		trap->context->uc_mcontext.gregs[REG_RSP] = (greg_t)request->stack;
	return 0;
}

/* Where the parent's room is; 0: there is no memory for it. */
static uint64_t parent_room(const struct request *request, uint64_t stack)
{
	long mapped;

	if (request->stack)
		return stack - ROOM_BYTES;
	if (!vfork_stack) {
		mapped = process_map(VFORK_STACK_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1);
		if (sys_failed(mapped))
			return 0;
		vfork_stack = (uint64_t)mapped;
	}
	return vfork_stack + VFORK_STACK_BYTES - ROOM_BYTES;
}

/* A child with the parent's memory. */
static long make_sharing(struct request *request, struct trap *trap)
{
	greg_t *registers = trap->context->uc_mcontext.gregs;
	uint64_t at = parent_room(request, (uint64_t)registers[REG_RSP]);
	struct room room = {
	    .back = (uint64_t)(uintptr_t)trap_back,
	    .target = (uint64_t)registers[REG_RIP],
	    .stack = (uint64_t)registers[REG_RSP],
	};
	struct room child = room;

	if (!at)
		return -ENOMEM;
	if (!request->stack)
		room.back = (uint64_t)(uintptr_t)trap_back_vfork;
	if (request->stack) {
		child.stack = request->stack;
		if (user_poke(request->stack - ROOM_BYTES, &child, offsetof(struct room, words)))
			return -EFAULT;
		if (request->call.nr == SYS_clone)
			request->call.args[1] -= ROOM_BYTES;
		else
			request->words[ARGS_STACK_BYTES] -= ROOM_BYTES;
	}
	memcpy(room.words, request->words, sizeof(room.words));
	if (user_poke(at, &room, sizeof(room)))
		return -EFAULT;
	registers[REG_RDI] = (greg_t)request->call.args[0];
	registers[REG_RSI] = (greg_t)request->call.args[1];
	if (request->call.nr == SYS_clone3)
		registers[REG_RDI] = (greg_t)(at + offsetof(struct room, words));
	registers[REG_RAX] = request->call.nr;
	registers[REG_RSP] = (greg_t)at;
	registers[REG_RIP] = (greg_t)trap_gate();
	return TRAP_GOES_ON;
}

static long make_child(struct trap *trap)
{
	struct request request;
	long error = request_read(&request, &trap->call);

	if (error)
		return error;
	return request.flags & CLONE_VM ? make_sharing(&request, trap)
					: make_forked(&request, trap);
}

void trap_leave_thread(void)
{
	if (sys_call(SYS_gettid, 0) != sys_call(SYS_getpid, 0))
		return;
	coverage_keep();
	helper_leader_leaves();
}

bool trap_serve_process(struct trap *trap, long *result)
{
	const unsigned long *args = trap->call.args;

	switch (trap->call.nr) {
	case SYS_clone:
	case SYS_clone3:
	case SYS_fork:
	case SYS_vfork:
		*result = make_child(trap);
		return true;
	case SYS_execve:
		*result = numbered_result(
		    execve((const char *)args[0], (char *const *)args[1], (char *const *)args[2]));
		return true;
	case SYS_execveat:
		*result = numbered_result(execveat((int)args[0], (const char *)args[1],
						   (char *const *)args[2], (char *const *)args[3],
						   (int)args[4]));
		return true;
	case SYS_exit_group:
		exit_prepare();
		return false;
	case SYS_exit:
		trap_leave_thread();
		return false;
	default:
		return false;
	}
}
