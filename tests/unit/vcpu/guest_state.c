/* Where a guest of the CPU tests starts: 64-bit mode, and handlers that halt. */
#include "tests/unit/vcpu/guest_state.h"

#include <string.h>

#define VECTORS 32u

static void put64(uint8_t *ram, uint64_t gpa, uint64_t value)
{
	memcpy(ram + gpa, &value, sizeof(value));
}

void guest_build_events(uint8_t *ram)
{
	put64(ram, GUEST_GDT + SELECTOR_CODE, UINT64_C(0x00af9b000000ffff));
	put64(ram, GUEST_GDT + SELECTOR_DATA, UINT64_C(0x00cf93000000ffff));
	put64(ram, GUEST_GDT + 0x18, UINT64_C(0x00cff3000000ffff));
	put64(ram, GUEST_GDT + 0x20, UINT64_C(0x00affb000000ffff));
	put64(ram, GUEST_GDT + SELECTOR_TSS,
	      UINT64_C(0x0000890000000067) | (uint64_t)GUEST_TSS << 16);
	put64(ram, GUEST_TSS + 4, GUEST_STACK);
	for (uint64_t vector = 0; vector < VECTORS; vector++) {
		uint64_t at = GUEST_HANDLERS + vector * 16;

		memset(ram + at, 0xf4, 16);
		put64(ram, GUEST_IDT + vector * 16,
		      at | SELECTOR_CODE << 16 | UINT64_C(0xee00) << 32);
	}
}

void guest_enter_long_mode(struct cpu_state *s)
{
	static const struct cpu_segment code = {.limit = 0xffffffff,
						.selector = SELECTOR_CODE,
						.type = 11,
						.s = 1,
						.present = 1,
						.l = 1,
						.g = 1};
	static const struct cpu_segment data = {.limit = 0xffffffff,
						.selector = SELECTOR_DATA,
						.type = 3,
						.s = 1,
						.present = 1,
						.db = 1,
						.g = 1};

	for (int i = 0; i <= CPU_GS; i++)
		s->seg[i] = i == CPU_CS ? code : data;
	s->seg[CPU_TR] = (struct cpu_segment){
	    .base = GUEST_TSS, .limit = 103, .selector = SELECTOR_TSS, .type = 11, .present = 1};
	s->gdt = (struct cpu_table){GUEST_GDT, 0x37};
	s->idt = (struct cpu_table){GUEST_IDT, VECTORS * 16 - 1};
	s->cr0 = 0x80010033;
	s->cr3 = GUEST_PML4;
	s->cr4 = 0x620;
	s->efer = 0xd01;
	s->rip = GUEST_CODE;
	s->gpr[CPU_RSP] = GUEST_STACK;
}
