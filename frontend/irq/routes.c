/* The routing table: checked as KVM checks it, then kept in the order of the lines. */
#include "frontend/irq/routes.h"

#include <errno.h>

#include "hosts/process/heap.h"

#define PIC_PINS 8u
#define MSI_VALID_DEVID 1u /* of ARM's; KVM takes it everywhere */

/* Has the controller that @entry names such a pin? */
static bool pin_exists(const struct kvm_irq_routing_entry *entry)
{
	switch (entry->u.irqchip.irqchip) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		return entry->u.irqchip.pin < PIC_PINS;
	case KVM_IRQCHIP_IOAPIC:
		return entry->u.irqchip.pin < IRQ_ROUTES_PINS;
	default:
		return false;
	}
}

static bool entry_valid(const struct irq_route_rules *rules,
			const struct kvm_irq_routing_entry *entry)
{
	if (entry->gsi >= IRQ_ROUTES_MAX)
		return false;
	switch (entry->type) {
	case KVM_IRQ_ROUTING_MSI:
		if (entry->flags & ~MSI_VALID_DEVID)
			return false;
		/* The high half's lowest byte is the destination's, which the low half has. */
		return !rules->wide_ids || !(entry->u.msi.address_hi & 0xff);
	case KVM_IRQ_ROUTING_IRQCHIP:
		return !entry->flags && rules->has_pins && pin_exists(entry);
	default:
		return false;
	}
}

/* A message has its line for itself; a chip takes part in a line once. */
static bool may_share(const struct kvm_irq_routing_entry *a, const struct kvm_irq_routing_entry *b)
{
	return a->type == KVM_IRQ_ROUTING_IRQCHIP && b->type == KVM_IRQ_ROUTING_IRQCHIP &&
	       a->u.irqchip.irqchip != b->u.irqchip.irqchip;
}

/* Put @entry at its place; false when it cannot share its line. @used: entries of that GSI so far.
 */
static bool place(struct irq_routes *routes, const struct kvm_irq_routing_entry *entry,
		  uint32_t *used)
{
	struct kvm_irq_routing_entry *slot = &routes->entries[routes->first[entry->gsi]];

	for (uint32_t i = 0; i < *used; i++)
		if (!may_share(&slot[i], entry))
			return false;
	slot[(*used)++] = *entry;
	if (entry->type == KVM_IRQ_ROUTING_IRQCHIP)
		routes->pin_gsi[entry->u.irqchip.irqchip][entry->u.irqchip.pin] =
		    (int32_t)entry->gsi;
	return true;
}

static struct irq_routes *allocate(uint32_t gsi_count, uint32_t count)
{
	struct irq_routes *routes = process_heap_alloc(sizeof(*routes));

	if (!routes)
		return NULL;
	routes->gsi_count = gsi_count;
	routes->entries = process_heap_array(count + 1, sizeof(*routes->entries));
	routes->first = process_heap_array(gsi_count + 1, sizeof(*routes->first));
	if (!routes->entries || !routes->first) {
		irq_routes_destroy(routes);
		return NULL;
	}
	for (uint32_t chip = 0; chip < IRQ_ROUTES_CHIPS; chip++)
		for (uint32_t pin = 0; pin < IRQ_ROUTES_PINS; pin++)
			routes->pin_gsi[chip][pin] = -1;
	return routes;
}

static int fill(struct irq_routes *routes, const struct kvm_irq_routing_entry *entries,
		uint32_t count)
{
	uint32_t *used = process_heap_array(routes->gsi_count, sizeof(*used));
	int error = 0;

	if (!used)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		routes->first[entries[i].gsi + 1]++;
	for (uint32_t gsi = 0; gsi < routes->gsi_count; gsi++)
		routes->first[gsi + 1] += routes->first[gsi];
	for (uint32_t i = 0; i < count && !error; i++)
		if (!place(routes, &entries[i], &used[entries[i].gsi]))
			error = -EINVAL;
	process_heap_free(used);
	return error;
}

int irq_routes_create(const struct irq_route_rules *rules,
		      const struct kvm_irq_routing_entry *entries, uint32_t count,
		      struct irq_routes **routes)
{
	uint32_t gsi_count = 1;
	int error;

	for (uint32_t i = 0; i < count; i++) {
		if (!entry_valid(rules, &entries[i]))
			return -EINVAL;
		if (entries[i].gsi >= gsi_count)
			gsi_count = entries[i].gsi + 1;
	}
	*routes = allocate(gsi_count, count);
	if (!*routes)
		return -ENOMEM;
	error = fill(*routes, entries, count);
	if (error) {
		irq_routes_destroy(*routes);
		*routes = NULL;
	}
	return error;
}

int irq_routes_create_default(struct irq_routes **routes)
{
	static const struct irq_route_rules rules = {.has_pins = true};
	struct kvm_irq_routing_entry entries[IRQ_ROUTES_PINS + 2 * PIC_PINS] = {{0}};
	uint32_t count = 0;

	for (uint32_t pin = 0; pin < IRQ_ROUTES_PINS; pin++) {
		entries[count].gsi = pin;
		entries[count].type = KVM_IRQ_ROUTING_IRQCHIP;
		entries[count].u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		entries[count++].u.irqchip.pin = pin;
	}
	for (uint32_t line = 0; line < 2 * PIC_PINS; line++) {
		entries[count].gsi = line;
		entries[count].type = KVM_IRQ_ROUTING_IRQCHIP;
		entries[count].u.irqchip.irqchip = line / PIC_PINS;
		entries[count++].u.irqchip.pin = line % PIC_PINS;
	}
	return irq_routes_create(&rules, entries, count, routes);
}

void irq_routes_destroy(struct irq_routes *routes)
{
	if (!routes)
		return;
	process_heap_free(routes->entries);
	process_heap_free(routes->first);
	process_heap_free(routes);
}

const struct kvm_irq_routing_entry *irq_routes_find(const struct irq_routes *routes, uint32_t gsi,
						    uint32_t *count)
{
	*count = 0;
	if (!routes || gsi >= routes->gsi_count)
		return NULL;
	*count = routes->first[gsi + 1] - routes->first[gsi];
	return &routes->entries[routes->first[gsi]];
}
