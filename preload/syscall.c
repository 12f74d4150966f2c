/*
 * syscall(3): a call by its number. Its return address must be the client's own when the kernel
 * sees it, for a vfork(2) made so returns twice. So what is not ours goes on by a jump.
 */
#include "boundary/call.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include "hosts/process/fork.h"
#include "hosts/process/sys.h"
#include "preload/entry.h"
#include "preload/exit.h"
#include "preload/numbered.h"
#include "preload/signals.h"
#include "preload/trap.h"

long syscall_answer(const struct boundary_call *call, long *result);
/* Where the jump goes: libc's own. */
extern long (*syscall_real)(long nr, ...);
long (*syscall_real)(long nr, ...);

/* libc's fork handlers do not hear of it. */
static long make_fork(const struct boundary_call *call, uint64_t flags)
{
	long result;

	process_fork_before();
	result = sys_call_six(call->nr, call->args);
	if (result)
		process_fork_parent();
	else
		process_fork_child(flags);
	return real_result(result);
}

/* What goes by functions of ours, which keep account of it. */
static bool is_functions(const struct boundary_call *call, long *result)
{
	const unsigned long *args = call->args;
	uint64_t flags;

	switch (call->nr) {
	case SYS_fork:
	case SYS_clone:
	case SYS_clone3:
		if (!trap_is_plain_fork(call, &flags))
			return false;
		*result = make_fork(call, flags);
		return true;
	case SYS_fcntl:
		*result = fcntl((int)args[0], (int)args[1], args[2]);
		return true;
	case SYS_execve:
		*result =
		    execve((const char *)args[0], (char *const *)args[1], (char *const *)args[2]);
		return true;
	case SYS_execveat:
		*result = execveat((int)args[0], (const char *)args[1], (char *const *)args[2],
				   (char *const *)args[3], (int)args[4]);
		return true;
	case SYS_exit_group:
		exit_prepare();
		return false;
	case SYS_exit:
		trap_leave_thread();
		return false;
	case SYS_sigaltstack:
		*result = sigaltstack((const stack_t *)args[0], (stack_t *)args[1]);
		return true;
	case SYS_rt_sigprocmask:
		*result = args[3] != sizeof(uint64_t)
			      ? real_result(-EINVAL)
			      : real_result(signals_change_mask(
				    (int)args[0], (const sigset_t *)args[1], (sigset_t *)args[2]));
		return true;
	default:
		return false;
	}
}

/* Nonzero: *result is what syscall(3) returns, with errno set. */
__attribute__((used)) long syscall_answer(const struct boundary_call *call, long *result)
{
	if (!syscall_real)
		syscall_real = REAL(syscall);
	if (client_call_active())
		return 0;
	if (is_functions(call, result))
		return 1;
	if (!numbered_perform(call, result) && !trap_serve_filter(call, result) &&
	    !trap_serve_actions(call, result)) {
		if (!boundary_knows(call->nr))
			return 0;
		*result = boundary_call(call);
	}
	*result = real_result(*result);
	return 1;
}

/* On the stack: a struct boundary_call, the result, eight bytes that keep it aligned. */
__asm__(".text\n"
	".globl syscall\n"
	".type syscall, @function\n"
	"syscall:\n"
	".cfi_startproc\n"
	"	sub $72, %rsp\n"
	".cfi_def_cfa_offset 80\n"
	"	mov 80(%rsp), %rax\n" /* the sixth argument is the caller's seventh */
	"	mov %rdi, 0(%rsp)\n"
	"	mov %rsi, 8(%rsp)\n"
	"	mov %rdx, 16(%rsp)\n"
	"	mov %rcx, 24(%rsp)\n"
	"	mov %r8, 32(%rsp)\n"
	"	mov %r9, 40(%rsp)\n"
	"	mov %rax, 48(%rsp)\n"
	"	mov %rsp, %rdi\n"
	"	lea 56(%rsp), %rsi\n"
	"	call syscall_answer\n"
	"	test %rax, %rax\n"
	"	jne 1f\n"
	"	mov 0(%rsp), %rdi\n"
	"	mov 8(%rsp), %rsi\n"
	"	mov 16(%rsp), %rdx\n"
	"	mov 24(%rsp), %rcx\n"
	"	mov 32(%rsp), %r8\n"
	"	mov 40(%rsp), %r9\n"
	"	add $72, %rsp\n"
	".cfi_def_cfa_offset 8\n"
	"	xor %eax, %eax\n"
	"	jmp *syscall_real(%rip)\n"
	"1:\n"
	".cfi_def_cfa_offset 80\n"
	"	mov 56(%rsp), %rax\n"
	"	add $72, %rsp\n"
	".cfi_def_cfa_offset 8\n"
	"	ret\n"
	".cfi_endproc\n"
	".size syscall, . - syscall\n");
