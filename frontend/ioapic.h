/* The I/O APIC: 24 lines, each with a redirection entry. */
#ifndef QUIRE_FRONTEND_IOAPIC_H
#define QUIRE_FRONTEND_IOAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/uapi.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000u
#define IOAPIC_SIZE_BYTES 0x100u

struct vm;

/* Guarded by irqchip.lock. The state is kept in KVM's own form. */
struct ioapic {
	struct kvm_ioapic_state state;
	uint32_t line_level; /* the lines' inputs */
};

void ioapic_reset(struct ioapic *ioapic);
/* Drive line 0..23; delivers what is due. Under irqchip.lock. */
void ioapic_set_line(struct vm *vm, unsigned int line, bool level);
uint32_t ioapic_read(struct ioapic *ioapic, uint64_t offset);
void ioapic_write(struct vm *vm, uint64_t offset, uint32_t value);
/* A local APIC ended @vector. */
void ioapic_eoi(struct vm *vm, uint8_t vector);
/* Deliver every line that is pending and not masked (after a state was set). */
void ioapic_service(struct vm *vm);

#endif
