/* The guest's code: one short sequence for each thing that it can be told to do. */
#include "guest.h"

#include <string.h>

/*
 * Each ends by out to AGENT_PORT (0x80). Position-independent; rbp, rsp and the rest are free.
 * The table holds the offset of each from guest_text.
 */
asm(".pushsection .rodata\n"
    ".balign 16\n"
    "guest_text:\n"
    "guest_load1: movzbl (%rbx), %eax\n out %al, $0x80\n"
    "guest_load2: movzwl (%rbx), %eax\n out %al, $0x80\n"
    "guest_load4: movl (%rbx), %eax\n out %al, $0x80\n"
    "guest_load8: movq (%rbx), %rax\n out %al, $0x80\n"
    "guest_store1: movb %al, (%rbx)\n out %al, $0x80\n"
    "guest_store2: movw %ax, (%rbx)\n out %al, $0x80\n"
    "guest_store4: movl %eax, (%rbx)\n out %al, $0x80\n"
    "guest_store8: movq %rax, (%rbx)\n out %al, $0x80\n"
    "guest_increment: lock incq (%rbx)\n out %al, $0x80\n"
    "guest_call: jmp *%rbx\n"
    "guest_load_each: xorl %eax, %eax\n"
    "1: addq (%rbx), %rax\n addq %rdx, %rbx\n decq %rcx\n jnz 1b\n out %al, $0x80\n"
    "guest_store_each:\n"
    "1: movq %rax, (%rbx)\n addq %rdx, %rbx\n decq %rcx\n jnz 1b\n out %al, $0x80\n"
    "guest_wait_while:\n"
    "1: movq (%rbx), %rdx\n cmpq %rax, %rdx\n je 1b\n movq %rdx, %rax\n out %al, $0x80\n"
    "guest_count:\n"
    "1: incq (%rbx)\n cmpq $0, (%rcx)\n je 1b\n out %al, $0x80\n"
    "guest_store_loop:\n"
    "1: movq %rbx, %rsi\n movq %rcx, %rdi\n"
    "2: movq %rax, (%rsi)\n addq $4096, %rsi\n decq %rdi\n jnz 2b\n"
    "cmpq $0, (%rdx)\n je 1b\n out %al, $0x80\n"
    "guest_out: outl %eax, %dx\n out %al, $0x80\n"
    "guest_out1: outb %al, %dx\n out %al, $0x80\n"
    "guest_in: xorl %eax, %eax\n inl %dx, %eax\n out %al, $0x80\n"
    "guest_vmcall: vmcall\n out %al, $0x80\n"
    "guest_vmmcall: vmmcall\n out %al, $0x80\n"
    "guest_breakpoint: int3\n out %al, $0x80\n"
    "guest_vmload: movq %rbx, %rax\n vmload\n out %al, $0x80\n"
    "guest_text_end:\n"
    ".popsection\n");

#define ENTRY(name) extern const uint8_t guest_##name[]
ENTRY(text);
ENTRY(text_end);
ENTRY(load1);
ENTRY(load2);
ENTRY(load4);
ENTRY(load8);
ENTRY(store1);
ENTRY(store2);
ENTRY(store4);
ENTRY(store8);
ENTRY(increment);
ENTRY(call);
ENTRY(load_each);
ENTRY(store_each);
ENTRY(wait_while);
ENTRY(count);
ENTRY(store_loop);
ENTRY(out);
ENTRY(out1);
ENTRY(in);
ENTRY(vmcall);
ENTRY(vmmcall);
ENTRY(breakpoint);
ENTRY(vmload);
#undef ENTRY

static const uint8_t *const entries[GUEST_CODES] = {
    [GUEST_LOAD1] = guest_load1,
    [GUEST_LOAD2] = guest_load2,
    [GUEST_LOAD4] = guest_load4,
    [GUEST_LOAD8] = guest_load8,
    [GUEST_STORE1] = guest_store1,
    [GUEST_STORE2] = guest_store2,
    [GUEST_STORE4] = guest_store4,
    [GUEST_STORE8] = guest_store8,
    [GUEST_INCREMENT] = guest_increment,
    [GUEST_CALL] = guest_call,
    [GUEST_LOAD_EACH] = guest_load_each,
    [GUEST_STORE_EACH] = guest_store_each,
    [GUEST_WAIT_WHILE] = guest_wait_while,
    [GUEST_COUNT] = guest_count,
    [GUEST_STORE_LOOP] = guest_store_loop,
    [GUEST_OUT] = guest_out,
    [GUEST_OUT1] = guest_out1,
    [GUEST_IN] = guest_in,
    [GUEST_HYPERCALL] = guest_vmcall,
    [GUEST_BREAKPOINT] = guest_breakpoint,
    [GUEST_VMLOAD] = guest_vmload,
};

static int is_amd(void)
{
	uint32_t leaf = 0, b, c = 0, d;

	asm volatile("cpuid" : "+a"(leaf), "=b"(b), "+c"(c), "=d"(d));
	/* "Auth"enticAMD or "Hygo"nGenuine */
	return b == 0x68747541 || b == 0x6f677948;
}

uint64_t guest_entry(enum guest_code code)
{
	const uint8_t *entry = entries[code];

	if (code == GUEST_HYPERCALL && is_amd())
		entry = guest_vmmcall;
	return (uint64_t)(entry - guest_text);
}

void guest_copy(void *dst)
{
	memcpy(dst, guest_text, (size_t)(guest_text_end - guest_text));
}
