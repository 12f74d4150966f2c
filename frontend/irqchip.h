/* Interrupt routing of a VM: lines and messages to the PIC, the I/O APIC and the local APICs. */
#ifndef QUIRE_FRONTEND_IRQCHIP_H
#define QUIRE_FRONTEND_IRQCHIP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "frontend/ioapic.h"
#include "frontend/pic.h"
#include "frontend/uapi.h"
#include "vcpu/cpu.h"

struct ioctl_call;
struct vcpu;
struct vm;

#define IRQCHIP_MAX_ROUTES 4096u

enum irqchip_kind {
	IRQCHIP_NONE,	/* the client has its own interrupt controllers */
	IRQCHIP_SPLIT,	/* local APICs inside, the rest with the client */
	IRQCHIP_KERNEL, /* PIC and I/O APIC inside too */
};

struct irqchip {
	atomic_int kind;      /* enum irqchip_kind; set once */
	pthread_mutex_t lock; /* PIC, I/O APIC and routes */
	struct pic pic;
	struct ioapic ioapic;
	struct kvm_irq_routing_entry *routes;
	uint32_t route_count;
};

/* One interrupt message, as it travels to local APICs. */
struct apic_message {
	uint32_t destination; /* APIC id or logical set; 0xff / 0xffffffff: all */
	bool wide;	      /* the destination has 32 bits, not 8 */
	bool logical;
	bool level;
	uint8_t delivery_mode; /* APIC_MODE_* in lapic.h */
	uint8_t vector;
	const struct vcpu *excluded; /* not to this one */
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

/*
 * Deliver @message to every local APIC it names. Returns how many took it, -1 when there is no
 * such APIC. Callers may hold irqchip.lock, never a local APIC's lock.
 */
int apic_deliver(struct vm *vm, const struct apic_message *message);

/* An access to a port or address of the PIC or the I/O APIC; DONE when it was one. */
enum cpu_io_result irqchip_pio(struct vm *vm, struct cpu_io *io);
enum cpu_io_result irqchip_mmio(struct vm *vm, struct cpu_io *io);
/* The guest ended interrupt @vector at a local APIC, which was a level-triggered one. */
void irqchip_eoi(struct vm *vm, uint8_t vector);
/* The PIC's output, and taking its interrupt: the vector, or -1. */
bool irqchip_pic_pending(struct vm *vm);
int irqchip_pic_take(struct vm *vm);
/* The PIC's output rose: make the boot vCPU look. */
void irqchip_pic_notify(struct vm *vm);

/* An edge on @gsi, wherever it is routed. */
void irqchip_pulse(struct vm *vm, uint32_t gsi);

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
