/* Interrupt routing of a VM: lines and messages to the PIC, the I/O APIC and the local APICs. */
#ifndef QUIRE_FRONTEND_IRQ_IRQCHIP_H
#define QUIRE_FRONTEND_IRQ_IRQCHIP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "frontend/irq/apic_message.h"
#include "frontend/irq/ioapic.h"
#include "frontend/irq/pic.h"
#include "frontend/irq/pit.h"
#include "frontend/irq/resample.h"
#include "frontend/irq/routes.h"
#include "frontend/uapi.h"
#include "hosts/process/lock.h"
#include "vcpu/cpu.h"

struct ioctl_call;
struct vcpu;
struct vm;

enum irqchip_kind {
	IRQCHIP_NONE,	/* the client has its own interrupt controllers */
	IRQCHIP_SPLIT,	/* local APICs inside, the rest with the client */
	IRQCHIP_KERNEL, /* PIC and I/O APIC inside too */
};

/* Sources of a line. The line is high while one source drives it. */
enum irq_source { IRQ_SOURCE_CLIENT, IRQ_SOURCE_RESAMPLE, IRQ_SOURCE_PIT };

struct irqchip {
	atomic_int kind;	  /* enum irqchip_kind; set once */
	struct process_lock lock; /* PIC, I/O APIC, PIT and routes */
	struct pic pic;
	struct ioapic ioapic;
	struct pit pit;
	struct irq_routes *routes;  /* NULL: no irqchip yet */
	struct resample *resamples; /* told when a line is served */
	uint32_t reserved_pins;	    /* split: GSIs below are the client's I/O APIC's; set once */
	/* Split: vectors whose end the client wants to know. Read at any time. */
	atomic_uint_fast64_t eoi_vectors[4];
	/* Local APICs whose LINT0 gives NMIs: the timer's watchdog. */
	atomic_uint watchdogs;
};

void irqchip_init(struct irqchip *irqchip);
void irqchip_destroy(struct irqchip *irqchip);
static inline bool irqchip_has_lapic(const struct irqchip *irqchip)
{
	return atomic_load_explicit(&irqchip->kind, memory_order_acquire) != IRQCHIP_NONE;
}
static inline bool irqchip_has_pic(const struct irqchip *irqchip)
{
	return atomic_load_explicit(&irqchip->kind, memory_order_acquire) == IRQCHIP_KERNEL;
}

static inline bool irqchip_watchdog_listens(const struct irqchip *irqchip)
{
	return atomic_load_explicit(&irqchip->watchdogs, memory_order_acquire) != 0;
}

/* An access to a port or address of the PIC, the PIT or the I/O APIC; DONE when it was one. */
enum cpu_io_result irqchip_pio(struct vm *vm, struct cpu_io *io);
enum cpu_io_result irqchip_mmio(struct vm *vm, struct cpu_io *io);
/*
 * The guest ended @vector at @vcpu's APIC; @level: it was level-triggered there. 1: the client
 * wants to know (KVM_EXIT_IOAPIC_EOI). No lock held.
 */
int irqchip_eoi(struct vcpu *vcpu, uint8_t vector, bool level);
/* Does the end of @vector matter to anything but the APIC that it was delivered to? */
bool irqchip_hears_eoi(const struct vm *vm, uint8_t vector);
/* The PIC's output, and taking its interrupt: the vector, or -1. */
bool irqchip_pic_pending(struct vm *vm);
int irqchip_pic_take(struct vm *vm);
/* A local APIC's LINT0 became a source of NMIs. No lock held. */
void irqchip_watchdog_began(struct vm *vm);
/* A local APIC's state was set. No lock held. */
void irqchip_lapic_restored(struct vm *vm);

/* An edge on @gsi, wherever it is routed. */
void irqchip_pulse(struct vm *vm, uint32_t gsi);
/* @source drives @gsi. */
void irqchip_drive(struct vm *vm, uint32_t gsi, enum irq_source source, bool level);

/* With irqchip.lock held. */
void irqchip_drive_locked(struct vm *vm, uint32_t gsi, enum irq_source source, bool level);
void irqchip_pulse_locked(struct vm *vm, uint32_t gsi, enum irq_source source);
/* The guest has served @pin: tell the sources that drive it. */
void irqchip_acked_locked(struct vm *vm, uint32_t chip, uint32_t pin);
bool irqchip_has_listener_locked(struct vm *vm, uint32_t chip, uint32_t pin);
void irqchip_mask_changed_locked(struct vm *vm, uint32_t chip, uint32_t pin, bool masked);
/* Is @gsi masked wherever it is routed? */
bool irqchip_gsi_is_masked_locked(struct vm *vm, uint32_t gsi);
/* A tick, for the local APICs that make NMIs of it. */
void irqchip_watchdog_locked(struct vm *vm);

long vm_create_irqchip(struct ioctl_call *call);
long vm_get_irqchip(struct ioctl_call *call);
long vm_set_irqchip(struct ioctl_call *call);
long vm_irq_line(struct ioctl_call *call);
long vm_irq_line_status(struct ioctl_call *call);
long vm_set_gsi_routing(struct ioctl_call *call);
long vm_signal_msi(struct ioctl_call *call);
long vm_set_boot_cpu_id(struct ioctl_call *call);
/* KVM_CAP_SPLIT_IRQCHIP with @lines reserved routes. Under vm.lock. */
long irqchip_split_locked(struct vm *vm, uint64_t lines);

#endif
