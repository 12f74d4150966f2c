/* Breakpoints: the guest's own debug registers, or the client's in their place. */
#ifndef QUIRE_VCPU_RUN_DEBUG_H
#define QUIRE_VCPU_RUN_DEBUG_H

#include "vcpu/mem/mmu.h"

#define DR6_FIXED UINT64_C(0xffff0ff0)
#define DR6_HITS UINT64_C(0xf) /* the breakpoints; each #DB says anew which */
#define DR6_BD (UINT64_C(1) << 13)
#define DR6_BS (UINT64_C(1) << 14)

/*
 * While a breakpoint is enabled the CPU runs one instruction at a time. A page with a data
 * breakpoint is kept out of the TLB, so that each access to it takes the slow path, which notes it
 * here; where there are none, no access looks.
 */

/* Look at the registers again: before the guest runs, and after MOV to DR7. */
void debug_update(struct cpu *cpu);
/* Is there a data breakpoint on the page of @linear? Then it must not be in the TLB. */
int debug_watches_page(const struct cpu *cpu, uint64_t linear);
/* An access that did not come from the TLB. */
void debug_note(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, enum mmu_access access);

/* An access to a port that is done. */
void debug_note_port(struct cpu *cpu, unsigned int port, unsigned int size_bytes);

/* Before an instruction: nonzero when a breakpoint stops the CPU there; cpu->stop is set. */
int debug_before(struct cpu *cpu);
/* After one; @dr6 has more causes (DR6_BS). Nonzero when they, or what it accessed, stop the CPU.
 */
int debug_after(struct cpu *cpu, uint64_t dr6);
/* End cpu_run() with CPU_EXIT_DEBUG for @vector at RIP. */
enum step debug_exit(struct cpu *cpu, unsigned int vector, uint64_t dr6);

#endif
