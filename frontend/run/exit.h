/* What happens when the CPU stops: an answer from inside, or an exit to the client. */
#ifndef QUIRE_FRONTEND_RUN_EXIT_H
#define QUIRE_FRONTEND_RUN_EXIT_H

#include <stdbool.h>

#include "frontend/irq/iobus.h"
#include "vcpu/cpu.h"

struct vcpu;

/*
 * How KVM_RUN goes on. An error stands in the vCPU, where run_fail() alone puts it, so that no
 * number on its way through here can become the client's result.
 */
enum run_next {
	RUN_ON,	    /* into the guest again */
	RUN_EXIT,   /* back to the client: 0, and the run page says why */
	RUN_FAILED, /* back to the client with run_fail()'s error */
};

/* KVM_RUN ends with @error, a negative errno; anything else is a bug of ours: -EIO. */
enum run_next run_fail(struct vcpu *vcpu, int error);

/* Fill the run page for @reason. */
enum run_next exit_handle(struct vcpu *vcpu, enum cpu_exit reason,
			  const struct cpu_exit_info *info);
/* The client's page at @hva is lost: this thread gets the signal that its own access would raise.
 */
void exit_send_lost(hva_t hva);
/* The client may inject an interrupt now. */
enum run_next exit_window(struct vcpu *vcpu);
/* The client's I/O APIC hears of the end of an interrupt. */
enum run_next exit_eoi(struct vcpu *vcpu);
/* Is there an interrupt for the vCPU, from its APIC or the PIC? */
bool exit_interrupt_waiting(struct vcpu *vcpu);
/* Trace that the CPU stopped, as a processor with SVM would have left its guest. */
void exit_trace(struct vcpu *vcpu, enum cpu_exit reason, const struct cpu_exit_info *info);
/* Trace the access @io, which moved @data. */
void exit_trace_access(enum iobus_kind kind, const struct cpu_io *io, const uint8_t data[8]);
/* The guest used a translation that it should have flushed: report it. By the vCPU's thread. */
void exit_report_stale(const struct cpu_stale *stale);
/* Trace a read of memory that the client must answer. */
void exit_trace_unsatisfied(const struct cpu_io *io);

#endif
