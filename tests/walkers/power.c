/*
 * Bare-metal, for qemu-system-ppc64 (powernv9), little-endian: has the processor walk the table
 * bytes that libquire made. As its hypervisor, in real mode; each access is a guest's in its real
 * mode, by an instruction that is in the guest's first block, or by executing at the place itself.
 * What came of each goes to the serial line.
 */
#include <stdint.h>

#include "tests/walkers/walker.h"

/* Of QEMU's powernv9: the LPC bus of the first chip, and the serial port on it. */
#define UART ((volatile uint8_t *)UINT64_C(0x60300d00103f8))

/* The guest's code: in its block of 1 GiB, which begins at 1 GiB. */
#define CODE_OFFSET UINT64_C(0x100000)
#define CODE_GPA (UINT64_C(0x40000000) + CODE_OFFSET)
#define CODE_AT (MEMORY_AT + PAGES_OFFSET + CODE_OFFSET)
#define LD_4_3 0xe8830000u
#define STD_4_3 0xf8830000u
#define SC_1 0x44000022u
#define LI_4(number) (0x38800000u | (uint32_t)(number))

/*
 * The processor begins big-endian, at 0x10. Faults and hypercalls of the guest are little-endian's
 * once HID0 says so, and come to 0xc00, 0xe00 and 0xe20.
 */
__asm__(".section .start, \"ax\"\n"
	".globl _start\n"
	"_start:\n"
	"	.org 0x10\n"
	"	.byte 0x38, 0x60, 0x00, 0x40\n" /* li 3, 0x40 */
	"	.byte 0x7c, 0x7a, 0x4b, 0xa6\n" /* mthsrr0 3 */
	"	.byte 0x7c, 0x80, 0x00, 0xa6\n" /* mfmsr 4 */
	"	.byte 0x60, 0x84, 0x00, 0x01\n" /* ori 4, 4, LE */
	"	.byte 0x7c, 0x9b, 0x4b, 0xa6\n" /* mthsrr1 4 */
	"	.byte 0x4c, 0x00, 0x02, 0x24\n" /* hrfid */
	"	.org 0x40\n"
	"	lis 1, stack_end@h\n"
	"	ori 1, 1, stack_end@l\n"
	"	lis 2, .TOC.@h\n"
	"	ori 2, 2, .TOC.@l\n"
	"	b begin\n"
	"	.org 0xc00\n"
	"	li 3, 0xc00\n"
	"	b leave_guest\n"
	"	.org 0xe00\n"
	"	li 3, 0xe00\n"
	"	b leave_guest\n"
	"	.org 0xe20\n"
	"	li 3, 0xe20\n"
	"	b leave_guest\n"
	"	.org 0x1000\n"
	"begin:\n"
	"	mfspr 3, 1008\n" /* HID0: HILE */
	"	lis 4, 0x0800\n"
	"	sldi 4, 4, 32\n"
	"	or 3, 3, 4\n"
	"	mtspr 1008, 3\n"
	"	isync\n"
	"	bl walker_main\n"
	"1:	b 1b\n"
	/* run_guest(pc, r3, r4, result, msr): where it left, and in *result the guest's r4. */
	"run_guest:\n"
	"	mflr 0\n"
	"	std 0, 16(1)\n"
	"	stdu 1, -256(1)\n"
	"	std 2, 24(1)\n"
	"	std 6, 32(1)\n"
	"	mfcr 0\n"
	"	std 0, 40(1)\n"
	"	std 13, 48(1)\n"
	"	std 14, 56(1)\n	std 15, 64(1)\n	std 16, 72(1)\n"
	"	std 17, 80(1)\n	std 18, 88(1)\n	std 19, 96(1)\n"
	"	std 20, 104(1)\n	std 21, 112(1)\n	std 22, 120(1)\n"
	"	std 23, 128(1)\n	std 24, 136(1)\n	std 25, 144(1)\n"
	"	std 26, 152(1)\n	std 27, 160(1)\n	std 28, 168(1)\n"
	"	std 29, 176(1)\n	std 30, 184(1)\n	std 31, 192(1)\n"
	"	mtspr 304, 1\n" /* HSPRG0 */
	"	mtspr 314, 3\n" /* HSRR0 */
	"	mtspr 315, 7\n" /* HSRR1 */
	"	mr 3, 4\n"
	"	mr 4, 5\n"
	"	hrfid\n"
	"leave_guest:\n"
	"	mfspr 1, 304\n"
	"	ld 6, 32(1)\n"
	"	std 4, 0(6)\n"
	"	ld 2, 24(1)\n"
	"	ld 0, 40(1)\n"
	"	mtcr 0\n"
	"	ld 13, 48(1)\n"
	"	ld 14, 56(1)\n	ld 15, 64(1)\n	ld 16, 72(1)\n"
	"	ld 17, 80(1)\n	ld 18, 88(1)\n	ld 19, 96(1)\n"
	"	ld 20, 104(1)\n	ld 21, 112(1)\n	ld 22, 120(1)\n"
	"	ld 23, 128(1)\n	ld 24, 136(1)\n	ld 25, 144(1)\n"
	"	ld 26, 152(1)\n	ld 27, 160(1)\n	ld 28, 168(1)\n"
	"	ld 29, 176(1)\n	ld 30, 184(1)\n	ld 31, 192(1)\n"
	"	addi 1, 1, 256\n"
	"	ld 0, 16(1)\n"
	"	mtlr 0\n"
	"	blr\n"
	".section .bss\n"
	"	.balign 16\n"
	"	.skip 16384\n"
	"stack_end:\n"
	"	.skip 256\n"
	".text\n");

uint64_t run_guest(uint64_t pc, uint64_t r3, uint64_t r4, uint64_t *result, uint64_t msr);

void walker_say(char c)
{
	while (!(UART[5] & 0x20)) /* full */
		;
	*UART = (uint8_t)c;
}

#define SET(spr, value) __asm__ volatile("mtspr %0, %1" ::"i"(spr), "r"((uint64_t)(value)))
#define GET(spr)                                                               \
	({                                                                     \
		uint64_t spr_value;                                            \
		__asm__ volatile("mfspr %0, %1" : "=r"(spr_value) : "i"(spr)); \
		spr_value;                                                     \
	})
#define LPCR 318
#define LPIDR 319
#define PTCR 464
#define LPID 1u
#define LPCR_UPRT (UINT64_C(1) << 22)
#define LPCR_HR (UINT64_C(1) << 20)
#define MSR_SF (UINT64_C(1) << 63)
#define MSR_LE UINT64_C(1)

/* By LPID: where the partition's root is, and its process table, which real mode does not need. */
static uint64_t partitions[512] __attribute__((aligned(65536)));

void walker_prepare(const struct probe_set *set)
{
	volatile uint32_t *code = (volatile uint32_t *)CODE_AT;

	code[0] = LD_4_3;
	code[1] = SC_1;
	code[2] = STD_4_3;
	code[3] = SC_1;
	partitions[2 * LPID] = __builtin_bswap64(set->root_register);
	SET(PTCR, (uint64_t)(uintptr_t)partitions);
	SET(LPIDR, LPID);
	SET(LPCR, GET(LPCR) | LPCR_UPRT | LPCR_HR);
	__asm__ volatile("isync" ::: "memory");
}

/* Where the guest came out: at the hypercall, or a fault of data or of an instruction. */
uint64_t walker_touch(const struct probe *probe, uint64_t index, uint64_t *value)
{
	volatile uint32_t *place = (volatile uint32_t *)probe->address;
	volatile uint64_t *word = (volatile uint64_t *)probe->address;
	uint64_t kept = 0, cause;

	/* tlbie of all that this partition has, with the upper tables (RIC 2, IS 2, R): each access
	 * walks. */
	__asm__ volatile("ptesync\n"
			 "tlbie %0, %1, 2, 0, 1\n"
			 "ptesync\n isync" ::"r"(UINT64_C(2) << 10),
			 "r"((uint64_t)LPID)
			 : "memory");
	switch (probe->access) {
	case PROBE_WRITE:
		cause = run_guest(CODE_GPA + 8, probe->gpa, PROBE_WRITTEN | index, value,
				  MSR_SF | MSR_LE);
		*value = word ? *word : 0;
		break;
	case PROBE_FETCH:
		if (word) {
			kept = *word;
			place[0] = LI_4(index & 0x7ff);
			place[1] = SC_1;
			__asm__ volatile("dcbst 0, %0\n sync\n icbi 0, %0\n isync" ::"r"(place)
					 : "memory");
		}
		cause = run_guest(probe->gpa, 0, 0, value, MSR_SF | MSR_LE);
		if (word)
			*word = kept;
		break;
	default:
		cause = run_guest(CODE_GPA, probe->gpa, 0, value, MSR_SF | MSR_LE);
	}
	return cause;
}

void walker_stop(void)
{
	/* The test ends the machine, once all is said. */
}
