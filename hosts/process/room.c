/* Room on the stack, for work of ours in a client's signal handler. */
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

static _Thread_local struct {
	uint64_t start, size_bytes;
	uint64_t room; /* 0: none */
} alternate __attribute__((tls_model("initial-exec")));

static pthread_key_t room_key;
static bool has_key;

static void room_free(void *room)
{
	alternate.room = 0;
	sys_call(SYS_munmap, sys_address(room), ROOM_BYTES);
}

__attribute__((constructor(101))) static void room_start(void)
{
	has_key = !pthread_key_create(&room_key, room_free);
}

void process_room_note(uint64_t start, size_t size_bytes)
{
	long room;

	alternate.start = start;
	alternate.size_bytes = size_bytes;
	if (!size_bytes || alternate.room || !has_key)
		return;
	room = process_map(ROOM_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	if (sys_failed(room))
		return;
	if (pthread_setspecific(room_key, (void *)room))
		sys_call(SYS_munmap, (uint64_t)room, ROOM_BYTES);
	else
		alternate.room = (uint64_t)room;
}

bool process_is_cramped(void)
{
	uint64_t here = sys_address(__builtin_frame_address(0));

	return here - alternate.start < alternate.size_bytes &&
	       here - alternate.start < ENOUGH_BYTES && alternate.room;
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
static void on_room(void *opaque)
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
	struct visit *visit = (struct visit *)(alternate.room + ROOM_BYTES) - 1;

	visit->run = run;
	visit->argument = argument;
	/* Until the kernel knows of no alternate stack, a signal would spoil the frames on it. */
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), sys_address(&visit->mask),
		 SET_BYTES);
	process_stack_call(on_room, visit, sys_address(visit) & ~UINT64_C(15));
	/* On it again; a signal that comes before this call goes on below. */
	sys_call(SYS_sigaltstack, sys_address(&visit->stack), 0);
}

void process_with_room(void (*run)(void *argument), void *argument)
{
	if (process_is_cramped())
		leave_stack(run, argument);
	else
		run(argument);
}
