/* The native side: load a state, run one instruction of the arena, store the state. */
#include "tests/unit/vcpu-diff/diff.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "hosts/process/guard.h"

/* Used by the trampoline below, by name. */
__attribute__((used)) static struct machine_state native_state;
__attribute__((used)) static uint64_t native_host_rsp;
__attribute__((used)) static const uint32_t native_host_mxcsr = 0x1f80;
__attribute__((used)) static uint64_t native_target = CODE_BASE;
__attribute__((used)) static uint8_t native_has_ymm;
/* Zeros that were loaded are in use to XSAVEOPT. */
__attribute__((used)) static uint8_t native_clear_ymm;

void native_enter(void);
void native_leave(void);
void native_leave_fault(void);
void native_signal(int sig, siginfo_t *info, void *context);

_Static_assert(offsetof(struct machine_state, rflags) == 128, "the trampoline counts on it");
_Static_assert(offsetof(struct machine_state, fx) == 192, "the trampoline counts on it");
_Static_assert(offsetof(struct machine_state, ymm_high) == 704, "the trampoline counts on it");

/*
 * RSP is loaded last and saved first, so that any value may stand in it; between the two only
 * addresses relative to RIP are used.
 */
asm(".text\n"
    ".globl native_enter\n"
    ".hidden native_enter\n"
    ".type native_enter, @function\n"
    "native_enter:\n"
    "	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n"
    "	push %r15\n"
    "	mov %rsp, native_host_rsp(%rip)\n"
    "	fxrstor64 native_state+192(%rip)\n"
    "	testb $1, native_has_ymm(%rip)\n"
    "	jz 1f\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "	vinsertf128 $1, native_state+704+16*\\n(%rip), %ymm\\n, %ymm\\n\n"
    ".endr\n"
    "	testb $1, native_clear_ymm(%rip)\n"
    "	jz 1f\n"
    "	vzeroupper\n"
    "1:\n"
    "	mov native_state+8(%rip), %rcx\n"
    "	mov native_state+16(%rip), %rdx\n"
    "	mov native_state+24(%rip), %rbx\n"
    "	mov native_state+40(%rip), %rbp\n"
    "	mov native_state+48(%rip), %rsi\n"
    "	mov native_state+56(%rip), %rdi\n"
    "	mov native_state+64(%rip), %r8\n"
    "	mov native_state+72(%rip), %r9\n"
    "	mov native_state+80(%rip), %r10\n"
    "	mov native_state+88(%rip), %r11\n"
    "	mov native_state+96(%rip), %r12\n"
    "	mov native_state+104(%rip), %r13\n"
    "	mov native_state+112(%rip), %r14\n"
    "	mov native_state+120(%rip), %r15\n"
    "	mov native_state+0(%rip), %rax\n"
    "	pushq native_state+128(%rip)\n"
    "	popfq\n"
    "	mov native_state+32(%rip), %rsp\n"
    "	jmp *native_target(%rip)\n"
    ".size native_enter, . - native_enter\n"
    ".globl native_leave, native_leave_fault\n"
    ".hidden native_leave\n"
    ".hidden native_leave_fault\n"
    ".type native_leave, @function\n"
    "native_leave:\n"
    "	mov %rsp, native_state+32(%rip)\n"
    "native_leave_fault:\n"
    "	mov native_host_rsp(%rip), %rsp\n"
    "	pushfq\n"
    "	popq native_state+128(%rip)\n"
    "	pushq $2\n"
    "	popfq\n"
    "	mov %rax, native_state+0(%rip)\n"
    "	mov %rcx, native_state+8(%rip)\n"
    "	mov %rdx, native_state+16(%rip)\n"
    "	mov %rbx, native_state+24(%rip)\n"
    "	mov %rbp, native_state+40(%rip)\n"
    "	mov %rsi, native_state+48(%rip)\n"
    "	mov %rdi, native_state+56(%rip)\n"
    "	mov %r8, native_state+64(%rip)\n"
    "	mov %r9, native_state+72(%rip)\n"
    "	mov %r10, native_state+80(%rip)\n"
    "	mov %r11, native_state+88(%rip)\n"
    "	mov %r12, native_state+96(%rip)\n"
    "	mov %r13, native_state+104(%rip)\n"
    "	mov %r14, native_state+112(%rip)\n"
    "	mov %r15, native_state+120(%rip)\n"
    "	fxsave64 native_state+192(%rip)\n"
    "	testb $1, native_has_ymm(%rip)\n"
    "	jz 1f\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "	vextractf128 $1, %ymm\\n, native_state+704+16*\\n(%rip)\n"
    ".endr\n"
    "	vzeroupper\n"
    "1:\n"
    "	fninit\n"
    "	ldmxcsr native_host_mxcsr(%rip)\n"
    "	cld\n"
    "	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n"
    "	pop %rbx\n"
    "	ret\n"
    ".size native_leave, . - native_leave\n"
    /* Linux leaves AC alone on its way to a handler, and C is not written for it. */
    ".type native_signal, @function\n"
    "native_signal:\n"
    "	pushfq\n"
    "	andl $~0x40000, (%rsp)\n"
    "	popfq\n"
    "	jmp native_fault\n"
    ".size native_signal, . - native_signal\n");

static const int native_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
static struct sigaction native_before[ARRAY_SIZE(native_signals)];

/* Not ours: it happens again, to what handled it before. */
static void native_pass_on(int sig)
{
	for (size_t i = 0; i < ARRAY_SIZE(native_signals); i++)
		if (native_signals[i] == sig)
			sigaction(sig, &native_before[i], NULL);
}

/* A fault of the instruction ends it where it stands: registers and memory are as they were. */
__attribute__((used)) static void native_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];

	if (rip - CODE_BASE >= 0x1000) {
		if (guard_handle_signal(sig, info, context))
			return;
		native_pass_on(sig);
		return;
	}
	native_state.fault = 1 + (uint32_t)uc->uc_mcontext.gregs[REG_TRAPNO];
	/* Not every kernel returns to a stack pointer that is no address. */
	native_state.gpr[4] = (uint64_t)uc->uc_mcontext.gregs[REG_RSP];
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)native_host_rsp;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)native_leave_fault;
}

static int native_catch(void)
{
	static uint8_t stack[65536];
	stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction action = {.sa_sigaction = native_signal,
				   .sa_flags = SA_SIGINFO | SA_ONSTACK};

	if (sigaltstack(&alternate, NULL))
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(native_signals); i++) {
		if (sigaction(native_signals[i], &action, &native_before[i]))
			return -errno;
	}
	return 0;
}

/* Map the arena and get ready for faults. */
int native_init(void)
{
	void *arena = mmap((void *)ARENA_BASE, ARENA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (arena != (void *)ARENA_BASE)
		return arena == MAP_FAILED ? -errno : -EEXIST;
	if (mprotect((void *)DATA_END, 4096, PROT_NONE))
		return -errno;
	native_has_ymm = has_ymm();
	return native_catch();
}

void native_run(struct machine_state *state)
{
	static const uint8_t zeros[sizeof(state->ymm_high)];
	/* Status flags, DF and AC only: the rest belongs to the process. */
	const uint64_t mask = 0xcd5 | CHECK_ALIGNMENT;

	native_state = *state;
	native_state.rflags = (state->rflags & mask) | 0x202;
	native_state.fault = 0;
	native_clear_ymm = native_has_ymm && !memcmp(state->ymm_high, zeros, sizeof(zeros));
	native_enter();
	*state = native_state;
}

/* Behind the code, where an aligned address may stand. */
#define LEAVE_OFFSET 64u

void code_place(const struct test_case *test, enum code_end end)
{
	uint8_t *code = (uint8_t *)CODE_BASE;
	uint64_t leave = (uint64_t)(uintptr_t)native_leave;
	uint32_t distance = LEAVE_OFFSET - 6 - (uint32_t)test->code_size_bytes;

	memcpy(code + LEAVE_OFFSET, &leave, sizeof(leave));
	memcpy(code, test->code, test->code_size_bytes);
	code += test->code_size_bytes;
	if (end == CODE_END_INTERPRETER) {
		memset(code, 0xf4, 14); /* HLT */
		return;
	}
	memcpy(code, "\xff\x25", 2); /* jmp *distance(%rip) */
	memcpy(code + 2, &distance, sizeof(distance));
}
