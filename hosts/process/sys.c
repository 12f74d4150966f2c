/* System calls made past libc: one instruction for all of them, which can be moved. */
#include "hosts/process/sys.h"

#define FUNCTION(name)                                                                \
	".pushsection .text\n\t.balign 16\n\t.globl " name "\n\t.hidden " name "\n\t" \
	".type " name ", @function\n" name ":\n\t"
#define END(name) ".size " name ", . - " name "\n\t.popsection\n"

__asm__(FUNCTION("sys_instruction") "syscall\n\t"
				    "ret\n\t" END("sys_instruction"));

sys_gate_fn *sys_gate = sys_instruction;

/* A jump, not a call: the gate returns to our caller. */
__asm__(FUNCTION("sys_call_six") "movq %rdi, %rax\n\t"
				 "movq %rsi, %rcx\n\t"
				 "movq 0(%rcx), %rdi\n\t"
				 "movq 8(%rcx), %rsi\n\t"
				 "movq 16(%rcx), %rdx\n\t"
				 "movq 24(%rcx), %r10\n\t"
				 "movq 32(%rcx), %r8\n\t"
				 "movq 40(%rcx), %r9\n\t"
				 "jmp *sys_gate(%rip)\n\t" END("sys_call_six"));
