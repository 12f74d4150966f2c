/* Room on the stack, for work of ours in signal handlers and threads that have little. */
#include "hosts/process/room.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "hosts/process/map.h"
#include "hosts/process/sys.h"

/* What our deepest calls are far from, and what is mapped instead. */
#define ENOUGH_BYTES (UINT64_C(32) << 10)
#define ROOM_BYTES (UINT64_C(128) << 10)
#define SET_BYTES 8

struct stack {
	uint64_t start, size_bytes;
};

static _Thread_local struct {
	struct stack alternate, own; /* no bytes: none, or it is large */
	uint64_t room;		     /* 0: none */
	uint32_t is_used;
} stacks __attribute__((tls_model("initial-exec")));

static pthread_key_t room_key;
static bool has_key;

static void room_free(void *room)
{
	stacks.room = 0;
	sys_call(SYS_munmap, sys_address(room), ROOM_BYTES);
}

__attribute__((constructor(101))) static void room_start(void)
{
	has_key = !pthread_key_create(&room_key, room_free);
}

static void room_make(void)
{
	long room;

	if (stacks.room || !has_key)
		return;
	room = process_map(ROOM_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	if (sys_failed(room))
		return;
	if (pthread_setspecific(room_key, (void *)room))
		sys_call(SYS_munmap, (uint64_t)room, ROOM_BYTES);
	else
		stacks.room = (uint64_t)room;
}

void process_room_note(uint64_t start, size_t size_bytes)
{
	stacks.alternate = (struct stack){start, size_bytes};
	if (size_bytes)
		room_make();
}

void process_room_note_thread(size_t size_bytes)
{
	uint64_t here = sys_address(__builtin_frame_address(0));

	if (size_bytes >= 2 * ENOUGH_BYTES)
		return;
	stacks.own = (struct stack){here - size_bytes, size_bytes};
	room_make();
}

static bool is_low(const struct stack *stack, uint64_t here)
{
	uint64_t left = here - stack->start;

	return left < stack->size_bytes && left < ENOUGH_BYTES;
}

bool process_is_cramped(void)
{
	uint64_t here = sys_address(__builtin_frame_address(0));

	return stacks.room && !stacks.is_used &&
	       (is_low(&stacks.alternate, here) || is_low(&stacks.own, here));
}

/* Calls @run(@argument) on the stack that ends at @top. */
void process_stack_call(void (*run)(void *argument), void *argument, uint64_t top);
__asm__(".pushsection .text\n\t"
	".type process_stack_call, @function\n\t"
	".hidden process_stack_call\n"
	"process_stack_call:\n\t"
	".cfi_startproc\n\t"
	"push %rbp\n\t"
	".cfi_def_cfa_offset 16\n\t"
	".cfi_offset %rbp, -16\n\t"
	"mov %rsp, %rbp\n\t"
	".cfi_def_cfa_register %rbp\n\t"
	"mov %rdx, %rsp\n\t"
	"mov %rdi, %rax\n\t"
	"mov %rsi, %rdi\n\t"
	"call *%rax\n\t"
	"mov %rbp, %rsp\n\t"
	"pop %rbp\n\t"
	".cfi_def_cfa %rsp, 8\n\t"
	"ret\n\t"
	".cfi_endproc\n\t"
	".size process_stack_call, . - process_stack_call\n\t"
	".popsection");

struct visit {
	void (*run)(void *argument);
	void *argument;
	stack_t stack; /* the thread's, as the kernel has it */
	uint64_t mask;
};

/* On the other stack. The kernel would begin anew at the top of the alternate one. */
static void leave_alternate(void *opaque)
{
	const stack_t none = {.ss_flags = SS_DISABLE};
	struct visit *visit = opaque;

	sys_call(SYS_sigaltstack, sys_address(&none), sys_address(&visit->stack));
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&visit->mask), 0, SET_BYTES);
	visit->run(visit->argument);
}

__attribute__((noinline)) static void leave_stack(void (*run)(void *argument), void *argument)
{
	static const uint64_t all = UINT64_MAX;
	/* What is left of the alternate stack is little: all of ours is on the other one. */
	struct visit *visit = (struct visit *)(stacks.room + ROOM_BYTES) - 1;
	uint64_t top = sys_address(visit) & ~UINT64_C(15);

	stacks.is_used = 1;
	visit->run = run;
	visit->argument = argument;
	if (!is_low(&stacks.alternate, sys_address(__builtin_frame_address(0)))) {
		process_stack_call(run, argument, top);
		stacks.is_used = 0;
		return;
	}
	/* Until the kernel knows of no alternate stack, a signal would spoil the frames on it. */
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), sys_address(&visit->mask),
		 SET_BYTES);
	process_stack_call(leave_alternate, visit, top);
	/* On it again; a signal that comes before this call goes on below. */
	sys_call(SYS_sigaltstack, sys_address(&visit->stack), 0);
	stacks.is_used = 0;
}

void process_with_room(void (*run)(void *argument), void *argument)
{
	if (process_is_cramped())
		leave_stack(run, argument);
	else
		run(argument);
}
