/* Running: entering guest mode, dispatching, and everything that interrupts it. */
#ifndef QUIRE_VCPU_RUN_RUN_H
#define QUIRE_VCPU_RUN_RUN_H

#include "vcpu/inside.h"

/* Allocate what a CPU needs only when it runs: 0 or -ENOMEM. */
int cpu_prepare(struct cpu *cpu);
/* The translations are from now on those of the present control registers. */
void cpu_note_paging(struct cpu *cpu);

#endif
