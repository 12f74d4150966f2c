/* Ways out of a handler: raising, exits, leaving guest mode. */
#ifndef QUIRE_VCPU_RUN_RAISE_H
#define QUIRE_VCPU_RUN_RAISE_H

#include "vcpu/inside.h"

/* Raising: all return STEP_ABORT for the handler to pass on. */

enum step cpu_raise(struct cpu *cpu, enum vector vector);			/* no error code */
enum step cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error); /* with one */
/* #PF: sets CR2. */
enum step cpu_raise_page_fault(struct cpu *cpu, uint64_t linear, uint32_t error);
/* End cpu_run() with @reason; cpu->info is filled by the caller. */
enum step cpu_stop_exit(struct cpu *cpu, enum cpu_exit reason);
/* Decoded instructions that this CPU lacks (CAVEATS.md): logs one line and raises #UD. */
enum step exec_unknown(struct cpu *cpu, const struct op *op);
/* The handler of undefined opcodes: #UD. */
enum step exec_undefined(struct cpu *cpu, const struct op *op);

/*
 * Leave guest mode so that a callback may be called. After it the handler touches no guest memory
 * and returns; the dispatcher enters again.
 */
void cpu_leave_guest(struct cpu *cpu);

#endif
