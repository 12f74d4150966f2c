/* The I/O APIC: 24 lines, each with a redirection entry. */
#ifndef QUIRE_FRONTEND_IRQ_IOAPIC_H
#define QUIRE_FRONTEND_IRQ_IOAPIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "frontend/object/timers.h"
#include "frontend/uapi.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000u
#define IOAPIC_SIZE_BYTES 0x100u
#define IOAPIC_LINES KVM_IOAPIC_NUM_PINS
#define IOAPIC_MAX_VCPUS 1024u

struct vcpu;
struct vm;

/* Guarded by irqchip.lock, but for eoi_vectors. The state is kept in KVM's own form. */
struct ioapic {
	struct kvm_ioapic_state state; /* .irr: the lines that are high */
	uint32_t delivered;	       /* lines whose edge is out, which a saved state leaves out */
	uint8_t sources[IOAPIC_LINES]; /* sources that drive a line high, a bit each */
	uint32_t storm[IOAPIC_LINES];  /* ends of interrupt in a row that found the line high */
	struct vm_timer storm_timer;
	/* The clock's line 8: which vCPUs have its interrupt and have not ended it; for
	 * KVM_IRQ_LINE_STATUS.
	 */
	uint64_t clock_waits[IOAPIC_MAX_VCPUS / 64];
	uint8_t clock_vector;
	/* Vectors whose end concerns the I/O APIC; a superset. Read at any time. */
	atomic_uint_fast64_t eoi_vectors[4];
};

void ioapic_reset(struct ioapic *ioapic);

/* How a line is driven. */
struct ioapic_drive {
	unsigned int line; /* 0..23 */
	unsigned int source;
	bool level;
	bool wants_status; /* the clock's line: 0 until all have ended its last interrupt */
};

/*
 * All that follow with irqchip.lock held.
 * Drive a line; deliver what is due. The number of APICs that took it, 0: it was pending already,
 * -1: it is masked, waits for its end, or there is no such APIC.
 */
int ioapic_set_line(struct vm *vm, const struct ioapic_drive *drive);
uint32_t ioapic_read(const struct ioapic *ioapic, uint64_t offset);
void ioapic_write(struct vm *vm, uint64_t offset, uint32_t value);
/* @vcpu ended @vector; @level: it was level-triggered there. */
void ioapic_eoi(struct vcpu *vcpu, uint8_t vector, bool level);
void ioapic_get_state(const struct ioapic *ioapic, struct kvm_ioapic_state *state);
void ioapic_set_state(struct vm *vm, const struct kvm_ioapic_state *state);
/* The ends that are waited for follow the entries, the routes and the listeners. */
void ioapic_scan(struct vm *vm);
/* A local APIC's state was set: does it still owe the end of the clock's interrupt? */
void ioapic_clock_restore(struct vm *vm);

#endif
