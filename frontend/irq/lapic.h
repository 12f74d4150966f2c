/* A vCPU's local APIC: xAPIC page, x2APIC MSRs, timer. */
#ifndef QUIRE_FRONTEND_IRQ_LAPIC_H
#define QUIRE_FRONTEND_IRQ_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/irq/apic_message.h"
#include "frontend/object/timers.h"
#include "frontend/state/msr.h"
#include "hosts/process/lock.h"
#include "vcpu/cpu.h"

struct ioctl_call;
struct vcpu;

#define APIC_DEFAULT_BASE 0xfee00000u
#define APIC_BASE_ADDRESS UINT64_C(0xfffff000) /* KVM maps it below 4 GiB alone */
#define APIC_BASE_BSP (1u << 8)
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLE (1u << 11)

/* Delivery modes, as in the ICR and in redirection entries. */
enum apic_mode {
	APIC_MODE_FIXED = 0,
	APIC_MODE_LOWEST = 1,
	APIC_MODE_SMI = 2,
	APIC_MODE_REMOTE = 3,
	APIC_MODE_NMI = 4,
	APIC_MODE_INIT = 5,
	APIC_MODE_STARTUP = 6,
	APIC_MODE_EXTINT = 7,
};

/*
 * Registers by their offset in the xAPIC page. Other vCPUs and the timer thread deliver into them,
 * so everything is under @lock; @present is set at creation and says whether the VM has them.
 */
struct lapic {
	bool present;
	struct process_lock lock;
	uint32_t regs[256]; /* [offset / 4]; 64-bit x2APIC ICR: [0xc0] and [0xc4] */
	uint64_t base;	    /* IA32_APIC_BASE */
	/* Timer: one shot, periodic or to a deadline of the guest's TSC. */
	struct vm_timer timer;
	uint32_t mode_mask; /* the modes that CPUID offers, as LVT bits */
	uint32_t mode;	    /* as an LVT bit pattern */
	uint32_t cycle_ns;  /* of the timer's clock */
	uint32_t divide;    /* its cycles a count */
	uint64_t period_ns; /* 0: no count was set */
	uint64_t target_ns; /* when the count reaches zero */
	uint64_t tsc_deadline;
	bool counting;	    /* towards target_ns */
	bool expired;	    /* and not yet an interrupt: it is masked, or the APIC is off */
	bool is_watchdog;   /* LINT0 gives NMIs: counted in the VM */
	int pending_extint; /* split irqchip: vector from KVM_INTERRUPT, or -1 */
	int newest;	    /* the vector taken last and not ended since, or -1 */
};

/* By the thread that creates the vCPU. */
void lapic_init(struct vcpu *vcpu);
/* @init: by INIT, which keeps the id and the base. */
void lapic_reset(struct vcpu *vcpu, bool init);

/* An access to the xAPIC page; USER when it is not one. */
enum cpu_io_result lapic_mmio(struct vcpu *vcpu, struct cpu_io *io);
/* x2APIC MSRs 0x800..0x8ff; GP when not in x2APIC mode or no such register. */
enum cpu_msr_result lapic_msr_read(struct vcpu *vcpu, uint32_t index, uint64_t *value);
enum cpu_msr_result lapic_msr_write(struct vcpu *vcpu, uint32_t index, uint64_t value);

uint64_t lapic_get_base(struct vcpu *vcpu);
/* 0 or -EINVAL for reserved bits or a change of mode that the guest may not make. */
int lapic_set_base(struct vcpu *vcpu, enum msr_origin origin, uint64_t base);
/* The guest's CPUID was set: the timer's modes and the version follow. */
void lapic_cpuid_changed(struct vcpu *vcpu);
uint64_t lapic_get_tsc_deadline(struct vcpu *vcpu);
void lapic_set_tsc_deadline(struct vcpu *vcpu, uint64_t deadline);
uint8_t lapic_get_cr8(struct vcpu *vcpu);
void lapic_set_cr8(struct vcpu *vcpu, uint8_t value);

/* Is an interrupt to be delivered (its priority above the processor's)? */
bool lapic_has_interrupt(struct vcpu *vcpu);
/* Take it into service: the vector, -1 for none. */
int lapic_take_interrupt(struct vcpu *vcpu);
/* The vector taken last, if its EOI has not come and no other is pending; else -1. */
int lapic_sole_vector(struct vcpu *vcpu);
/* As a write to the EOI register. */
void lapic_end_interrupt(struct vcpu *vcpu);
/* Does the APIC let the PIC's interrupts through? */
bool lapic_accepts_pic(struct vcpu *vcpu);

/* Is it there, and enabled in IA32_APIC_BASE? */
bool lapic_is_present(struct vcpu *vcpu);
/* Does @message name this APIC, by its id or its logical destination? */
bool lapic_matches(struct vcpu *vcpu, const struct apic_message *message);
/* The id that messages name it by, in its mode. */
uint32_t lapic_physical_id(struct vcpu *vcpu);
/* Take @message. True when it had an effect. */
bool lapic_accept(struct vcpu *vcpu, const struct apic_message *message);
/* Is it enabled by the guest, too (the spurious vector register's bit)? */
bool lapic_is_enabled(struct vcpu *vcpu);
uint32_t lapic_priority(struct vcpu *vcpu);
/* Is @vector pending or in service? */
bool lapic_owes_eoi(struct vcpu *vcpu, uint8_t vector);
/* The timer ticks at LINT0, where that gives NMIs. */
void lapic_deliver_lint0(struct vcpu *vcpu);

long vcpu_get_lapic(struct ioctl_call *call);
long vcpu_set_lapic(struct ioctl_call *call);

#endif
