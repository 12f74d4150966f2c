/*
 * Bare-metal, for qemu-system-riscv64: has the processor walk the table bytes that libquire made.
 * In machine mode, with HLV and HSV, whose accesses go through hgatp, and by executing there as a
 * guest. What came of each goes to the serial line; tests/walkers/test_walkers.py compares.
 */
#include <stdint.h>

#include "tests/walkers/walker.h"

/* Of QEMU's virt machine. */
#define UART ((volatile uint8_t *)0x10000000)
#define POWER ((volatile uint32_t *)0x100000)

__asm__(".section .start, \"ax\"\n"
	".globl _start\n"
	"_start:\n"
	"	csrr t0, mhartid\n"
	"	bnez t0, 1f\n"
	"	la sp, stack_end\n"
	"	la t0, on_trap\n"
	"	csrw mtvec, t0\n"
	"	call walker_main\n"
	"1:	wfi\n"
	"	j 1b\n"
	/*
	 * The access that faulted is one instruction, and the next one looks at the cause. A guest
	 * that was executing comes back to where mscratch says.
	 */
	"	.balign 4\n"
	"on_trap:\n"
	"	csrr t1, mcause\n"
	"	csrrw t0, mscratch, zero\n"
	"	bnez t0, 2f\n"
	"	csrr t0, mepc\n"
	"	addi t0, t0, 4\n"
	"	csrw mepc, t0\n"
	"	mret\n"
	"2:	jr t0\n"
	".section .bss\n"
	"	.balign 16\n"
	"	.skip 16384\n"
	"stack_end:\n"
	".text\n");

void walker_say(char c)
{
	*UART = (uint8_t)c;
}

#define SET_CSR(csr, value) __asm__ volatile("csrw " #csr ", %0" ::"r"((uint64_t)(value)))

void walker_prepare(const struct probe_set *set)
{
	/* All memory, to all modes. */
	SET_CSR(pmpaddr0, -1);
	SET_CSR(pmpcfg0, 0x1f);
	SET_CSR(0x30a, set->control);	    /* menvcfg */
	SET_CSR(0x280, 0);		    /* vsatp: no first stage */
	SET_CSR(0x600, 1 << 8);		    /* hstatus: SPVP */
	SET_CSR(0x680, set->root_register); /* hgatp */
}

/* addi t2, zero, number; ecall. */
static uint64_t code_of(uint64_t index)
{
	return (index & 0x7ff) << 20 | 7 << 7 | 0x13 | UINT64_C(0x73) << 32;
}

/*
 * Execute at the probe's place as a guest in its supervisor mode: the cause, which is a call where
 * that works, and in *@value what the code there has in a register. By SRET: QEMU 10.0 ignores
 * MRET's bit for a guest (MPV).
 */
static uint64_t execute(const struct probe *probe, uint64_t index, uint64_t *value)
{
	volatile uint64_t *place = (volatile uint64_t *)probe->address;
	uint64_t kept = 0, cause, result;

	if (place) {
		kept = *place;
		*place = code_of(index);
	}
	__asm__ volatile("fence.i\n"
			 "la t0, 1f\n"
			 "csrw mscratch, t0\n"
			 "csrw sepc, %2\n"
			 "csrs mstatus, %3\n"
			 "csrs 0x600, %4\n"
			 "li t2, 0\n"
			 "sret\n"
			 ".balign 4\n"
			 "1: mv %0, t1\n"
			 "mv %1, t2"
			 : "=&r"(cause), "=&r"(result)
			 : "r"(probe->gpa), "r"(UINT64_C(1) << 8), /* SPP */
			   "r"(UINT64_C(1) << 7)		   /* hstatus: SPV */
			 : "t0", "t1", "t2", "memory");
	if (place)
		*place = kept;
	*value = result;
	return cause;
}

/* The cause of the trap that @probe's access took, or 0; what was read is in *@value. */
uint64_t walker_touch(const struct probe *probe, uint64_t index, uint64_t *value)
{
	uint64_t cause, word = 0;

	/* hfence.gvma: each access walks. */
	__asm__ volatile(".insn r 0x73, 0, 0x31, x0, x0, x0" ::: "memory");
	switch (probe->access) {
	case PROBE_WRITE: /* hsv.d */
		__asm__ volatile("li t1, 0\n"
				 ".insn r 0x73, 4, 0x37, x0, %1, %2\n"
				 "mv %0, t1"
				 : "=&r"(cause)
				 : "r"(probe->gpa), "r"(PROBE_WRITTEN | index)
				 : "t0", "t1", "memory");
		break;
	case PROBE_FETCH:
		return execute(probe, index, value);
	default: /* hlv.d */
		__asm__ volatile("li t1, 0\n"
				 ".insn r 0x73, 4, 0x36, %1, %2, x0\n"
				 "mv %0, t1"
				 : "=&r"(cause), "+&r"(word)
				 : "r"(probe->gpa)
				 : "t0", "t1", "memory");
	}
	if (probe->access == PROBE_WRITE && probe->address)
		word = *(volatile uint64_t *)probe->address;
	*value = word;
	return cause;
}

void walker_stop(void)
{
	*POWER = 0x5555;
}
