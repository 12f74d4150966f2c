/* The gate: the system call instructions that act for the client. */
#include "engine/gate.h"

#include <stddef.h>

#define STRING(text) #text
#define VALUE(macro) STRING(macro)
#define FUNCTION(name)                                                                \
	".pushsection .text\n\t.balign 16\n\t.globl " name "\n\t.hidden " name "\n\t" \
	".type " name ", @function\n" name ":\n\t"
#define END(name) ".size " name ", . - " name "\n\t.popsection\n"

/* A system call destroys RCX and R11, so RCX is free to hold the way back, as the kernel has it. */
#define BACK_TO_CLIENT                                    \
	"movq (%rsp), %rcx\n\t"                           \
	"leaq " VALUE(GATE_ROOM_BYTES) "(%rsp), %rsp\n\t" \
				       "jmp *%rcx\n\t"

__asm__(FUNCTION("gate_forward") "syscall\n\t" BACK_TO_CLIENT END("gate_forward"));

__asm__(FUNCTION("gate_masked") "syscall\n"
				".globl gate_masked_return\n\t.hidden gate_masked_return\n"
				"gate_masked_return:\n\t" BACK_TO_CLIENT END("gate_masked"));

__asm__(FUNCTION("gate_signal_return") "movl $15, %eax\n\t"
				       "syscall\n\t"
				       "hlt\n\t" END("gate_signal_return"));

__asm__(FUNCTION("gate_resume") "movq %rdi, %rsp\n\t"
				"movl $15, %eax\n\t"
				"syscall\n\t"
				"hlt\n\t" END("gate_resume"));

__asm__(FUNCTION("gate_clone") "movq %rdi, %rax\n\t"
			       "movq %rsi, %rcx\n\t"
			       "movq 0(%rcx), %rdi\n\t"
			       "movq 8(%rcx), %rsi\n\t"
			       "movq 16(%rcx), %rdx\n\t"
			       "movq 24(%rcx), %r10\n\t"
			       "movq 32(%rcx), %r8\n\t"
			       "movq 40(%rcx), %r9\n\t"
			       "syscall\n\t"
			       "testq %rax, %rax\n\t"
			       "jz 1f\n\t"
			       "ret\n"
			       "1:\txorl %ebp, %ebp\n\t"
			       "popq %rdi\n\t"
			       "call engine_child_start\n\t"
			       "hlt\n\t" END("gate_clone"));

/* Registers as after execve(2). */
__asm__(FUNCTION("gate_enter_client") "movq %rdi, %rsp\n\t"
				      "movq %rsi, %rcx\n\t"
				      "xorl %eax, %eax\n\t"
				      "xorl %ebx, %ebx\n\t"
				      "xorl %edx, %edx\n\t"
				      "xorl %esi, %esi\n\t"
				      "xorl %edi, %edi\n\t"
				      "xorl %ebp, %ebp\n\t"
				      "xorl %r8d, %r8d\n\t"
				      "xorl %r9d, %r9d\n\t"
				      "xorl %r10d, %r10d\n\t"
				      "xorl %r11d, %r11d\n\t"
				      "xorl %r12d, %r12d\n\t"
				      "xorl %r13d, %r13d\n\t"
				      "xorl %r14d, %r14d\n\t"
				      "xorl %r15d, %r15d\n\t"
				      "jmp *%rcx\n\t" END("gate_enter_client"));
