/* The guest of the CPU tests: where its things are, and how it starts. */
#ifndef TESTS_UNIT_VCPU_GUEST_STATE_H
#define TESTS_UNIT_VCPU_GUEST_STATE_H

#include "vcpu/cpu.h"

#define RAM_BYTES (UINT64_C(8) << 20)
#define MMIO_GPA UINT64_C(0x40000000)

/* Where the machine keeps its things; identity-mapped, supervisor and user. */
#define GUEST_PML4 0x1000u
#define GUEST_PDPT 0x2000u
#define GUEST_PD 0x3000u
#define GUEST_PT 0x4000u /* 4K pages at PAGED_LINEAR */
#define GUEST_IDT 0x8000u
#define GUEST_GDT 0x9000u
#define GUEST_TSS 0xa000u
#define GUEST_HANDLERS 0xb000u /* HLT, 16 bytes a vector */
#define GUEST_CODE 0x10000u
#define GUEST_STACK 0x20000u
#define GUEST_DATA 0x30000u
#define PAGED_LINEAR UINT64_C(0x400000)
#define SELECTOR_CODE 0x08u
#define SELECTOR_DATA 0x10u
#define SELECTOR_CODE32 0x30u
#define SELECTOR_USER_DATA 0x1bu
#define SELECTOR_USER_CODE 0x23u
#define SELECTOR_TSS 0x28u

/* GDT, TSS and IDT, and handlers that halt, in a RAM of RAM_BYTES. */
void guest_build_events(uint8_t *ram);
/* At GUEST_CODE with IF off; the tables are the caller's, from GUEST_PML4 on. */
void guest_enter_long_mode(struct cpu_state *s);

#endif
