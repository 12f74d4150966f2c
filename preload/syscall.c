/*
 * syscall(3): a call by its number. Its return address must be the client's own when the kernel
 * sees it, for a vfork(2) made so returns twice. So what is not ours goes on by a jump.
 */
#include "boundary/call.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <unistd.h>

#include "preload/entry.h"

long syscall_answer(const struct boundary_call *call, long *result);
/* Where the jump goes: libc's own. */
extern long (*syscall_real)(long nr, ...);
long (*syscall_real)(long nr, ...);

/* What changes descriptors goes by the functions that keep account of them. */
static bool changes_descriptors(const struct boundary_call *call, long *result)
{
	const unsigned long *args = call->args;

	switch (call->nr) {
	case SYS_close:
		*result = close((int)args[0]);
		return true;
	case SYS_dup:
		*result = dup((int)args[0]);
		return true;
	case SYS_dup2:
		*result = dup2((int)args[0], (int)args[1]);
		return true;
	case SYS_dup3:
		*result = dup3((int)args[0], (int)args[1], (int)args[2]);
		return true;
	case SYS_close_range:
		*result = close_range((unsigned int)args[0], (unsigned int)args[1], (int)args[2]);
		return true;
	case SYS_fcntl:
		*result = fcntl((int)args[0], (int)args[1], args[2]);
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
	if (changes_descriptors(call, result))
		return 1;
	if (client_call_active() || !boundary_knows(call->nr))
		return 0;
	*result = real_result(boundary_call(call));
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
