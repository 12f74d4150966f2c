/*
 * Bare-metal, for qemu-system-aarch64: has the processor walk the table bytes that libquire made.
 * At EL2; each access is a guest's at EL1, by an instruction that is in the guest's first block, or
 * by executing at the place itself. What came of each goes to the serial line.
 */
#include <stdint.h>

#include "tests/walkers/walker.h"

/* Of QEMU's virt machine. */
#define UART ((volatile uint32_t *)0x09000000)

/* The guest's code: in its block of 1 GiB, which begins at 1 GiB. */
#define CODE_OFFSET UINT64_C(0x100000)
#define CODE_GPA (UINT64_C(0x40000000) + CODE_OFFSET)
#define CODE_AT (MEMORY_AT + PAGES_OFFSET + CODE_OFFSET)
#define LDR_X1_X0 0xf9400001u
#define STR_X1_X0 0xf9000001u
#define HVC 0xd4000002u
#define MOVZ_X1(number) (0xd2800001u | (uint32_t)(number) << 5)

__asm__(".section .start, \"ax\"\n"
	".globl _start\n"
	"_start:\n"
	"	adr x0, stack_end\n"
	"	mov sp, x0\n"
	"	adr x0, vectors\n"
	"	msr vbar_el2, x0\n"
	"	isb\n"
	"	bl walker_main\n"
	"	movz x0, #0x8400, lsl #16\n" /* PSCI: SYSTEM_OFF */
	"	movk x0, #8\n"
	"	smc #0\n"
	"1:	b 1b\n"
	/* run_guest(pc, x0, x1): the syndrome, and in *x3 the guest's x1. */
	"run_guest:\n"
	"	stp x29, x30, [sp, #-112]!\n"
	"	stp x19, x20, [sp, #16]\n"
	"	stp x21, x22, [sp, #32]\n"
	"	stp x23, x24, [sp, #48]\n"
	"	stp x25, x26, [sp, #64]\n"
	"	stp x27, x28, [sp, #80]\n"
	"	str x3, [sp, #96]\n"
	"	msr elr_el2, x0\n"
	"	mov x0, x1\n"
	"	mov x1, x2\n"
	"	mov x2, #0x3c5\n"
	"	msr spsr_el2, x2\n"
	"	isb\n"
	"	eret\n"
	"leave_guest:\n"
	"	mrs x0, esr_el2\n"
	"	ldr x3, [sp, #96]\n"
	"	str x1, [x3]\n"
	"	ldp x19, x20, [sp, #16]\n"
	"	ldp x21, x22, [sp, #32]\n"
	"	ldp x23, x24, [sp, #48]\n"
	"	ldp x25, x26, [sp, #64]\n"
	"	ldp x27, x28, [sp, #80]\n"
	"	ldp x29, x30, [sp], #112\n"
	"	ret\n"
	"	.balign 2048\n"
	"vectors:\n"
	"	.skip 0x200\n"
	"1:	b 1b\n" /* a fault of ours */
	"	.balign 0x400\n"
	"	b leave_guest\n"
	"	.balign 0x400\n"
	".section .bss\n"
	"	.balign 16\n"
	"	.skip 16384\n"
	"stack_end:\n"
	".text\n");

uint64_t run_guest(uint64_t pc, uint64_t x0, uint64_t x1, uint64_t *result);

void walker_say(char c)
{
	*UART = (uint8_t)c;
}

#define SET(name, value) __asm__ volatile("msr " #name ", %0" ::"r"((uint64_t)(value)))

void walker_prepare(const struct probe_set *set)
{
	volatile uint32_t *code = (volatile uint32_t *)CODE_AT;

	code[0] = LDR_X1_X0;
	code[1] = HVC;
	code[2] = STR_X1_X0;
	code[3] = HVC;
	SET(vttbr_el2, set->root_register);
	SET(vtcr_el2, set->control);
	SET(sctlr_el1, 0x30d00800);
	SET(hcr_el2, UINT64_C(1) << 31 | 1); /* RW, VM */
	__asm__ volatile("isb");
}

/* The class of the exception that ended it, a hypercall where it worked. */
uint64_t walker_touch(const struct probe *probe, uint64_t index, uint64_t *value)
{
	volatile uint32_t *place = (volatile uint32_t *)probe->address;
	volatile uint64_t *word = (volatile uint64_t *)probe->address;
	uint64_t kept = 0, syndrome;

	/* Each access walks. */
	__asm__ volatile("tlbi vmalls12e1\n dsb sy\n ic iallu\n dsb sy\n isb" ::: "memory");
	switch (probe->access) {
	case PROBE_WRITE:
		syndrome = run_guest(CODE_GPA + 8, probe->gpa, PROBE_WRITTEN | index, value);
		*value = word ? *word : 0;
		break;
	case PROBE_FETCH:
		if (word) {
			kept = *word;
			place[0] = MOVZ_X1(index & 0x7ff);
			place[1] = HVC;
		}
		syndrome = run_guest(probe->gpa, 0, 0, value);
		if (word)
			*word = kept;
		break;
	default:
		syndrome = run_guest(CODE_GPA, probe->gpa, 0, value);
	}
	return syndrome >> 26;
}

void walker_stop(void)
{
	/* The test ends the machine, once all is said. */
}
