/* A VM's routing table: which pins and messages an interrupt line (GSI) drives. */
#ifndef QUIRE_FRONTEND_IRQ_ROUTES_H
#define QUIRE_FRONTEND_IRQ_ROUTES_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/uapi.h"

#define IRQ_ROUTES_MAX 4096u
#define IRQ_ROUTES_CHIPS 3u /* KVM_IRQCHIP_* */
#define IRQ_ROUTES_PINS 24u

/* Never changes once made: a new table replaces it whole. */
struct irq_routes {
	uint32_t gsi_count;
	struct kvm_irq_routing_entry *entries; /* in the order of their GSIs */
	uint32_t *first;		       /* [gsi]: its first entry; gsi_count + 1 of them */
	int32_t pin_gsi[IRQ_ROUTES_CHIPS][IRQ_ROUTES_PINS]; /* of a chip's pin; -1: none */
};

/* What a VM takes in its table. */
struct irq_route_rules {
	bool has_pins; /* PIC and I/O APIC are inside */
	bool wide_ids; /* messages carry 32 bits of destination */
};

/*
 * Make a table of @count entries. 0, -ENOMEM, or -EINVAL: an entry is none, or the same chip or a
 * message shares a GSI with another entry.
 */
int irq_routes_create(const struct irq_route_rules *rules,
		      const struct kvm_irq_routing_entry *entries, uint32_t count,
		      struct irq_routes **routes);
/* KVM's own: GSIs 0-23 to the I/O APIC's pins of the same numbers, 0-15 to the PICs' too. */
int irq_routes_create_default(struct irq_routes **routes);
void irq_routes_destroy(struct irq_routes *routes);

/* The entries of @gsi; *@count of them, which may be none. */
const struct kvm_irq_routing_entry *irq_routes_find(const struct irq_routes *routes, uint32_t gsi,
						    uint32_t *count);

#endif
