/* Exceptions and interrupts: raising, choosing, delivering through the IDT. */
#ifndef QUIRE_VCPU_RUN_EVENT_H
#define QUIRE_VCPU_RUN_EVENT_H

#include "vcpu/inside.h"

enum event_type {
	EVENT_INTERRUPT = 0,
	EVENT_NMI = 2,
	EVENT_EXCEPTION = 3,
	EVENT_SOFT_INTERRUPT = 4, /* INT n: the gate's DPL counts */
	EVENT_SOFT_EXCEPTION = 6, /* INT3, INTO */
};

struct event {
	enum event_type type;
	uint8_t vector;
	uint8_t has_error;
	uint32_t error;
	uint64_t return_rip;
};

/*
 * Push the frame and go to the handler. STEP_JUMP when done; STEP_ABORT with nothing changed and
 * cpu->stop set. In guest mode.
 */
enum step event_deliver(struct cpu *cpu, const struct event *event);

/* STOP_EXCEPTION becomes a pending exception of cpu->s, combined with @first, the event that was
 * being delivered (or NULL). Nonzero: a triple fault. */
int event_queue_exception(struct cpu *cpu, const struct event *first);

/* The event to deliver before the next instruction. Out of guest mode, as it may acknowledge an
 * interrupt. Zero: none. */
int event_choose(struct cpu *cpu, struct event *event);
/* It has been delivered: nothing of it stays pending. */
void event_done(struct cpu *cpu, const struct event *event);

/* Is an NMI waiting that may be taken? */
int event_nmi_due(const struct cpu *cpu);

/* Can an external interrupt be taken now? */
int event_interruptible(const struct cpu *cpu);

/*
 * RFLAGS were @old: STEP_F_EVENTS when interrupts are allowed since and one may wait. VMRUN begins
 * without nothing_waits, so a nested guest always looks.
 */
static inline enum step event_allowed(const struct cpu *cpu, uint64_t old)
{
	int is_new = (~old & cpu->s.rflags & FLAG_IF) != 0;

	return is_new && !cpu->nothing_waits ? STEP_F_EVENTS : STEP_NEXT;
}

#endif
