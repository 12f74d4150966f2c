/* What happens when the CPU stops: an answer from inside, or an exit to the client. */
#ifndef QUIRE_FRONTEND_EXIT_H
#define QUIRE_FRONTEND_EXIT_H

#include <stdbool.h>

#include "frontend/iobus.h"
#include "vcpu/cpu.h"

struct vcpu;

/* exit_handle(): run on. Any other value is KVM_RUN's result. */
#define EXIT_CONTINUE 1

/* Fill the run page for @reason; 0 or -errno to leave KVM_RUN with, or EXIT_CONTINUE. */
int exit_handle(struct vcpu *vcpu, enum cpu_exit reason, const struct cpu_exit_info *info);
/* Is there an interrupt for the vCPU, from its APIC or the PIC? */
bool exit_interrupt_waiting(struct vcpu *vcpu);
/* Trace the access @io, which moved @data. */
void exit_trace_access(enum iobus_kind kind, const struct cpu_io *io, const uint8_t data[8]);

#endif
