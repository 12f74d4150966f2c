/* Coalesced zones: writes that the client reads from a ring whenever it likes. */
#include <errno.h>
#include <string.h>

#include "frontend/irq/iobus.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/vm.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

#define RING_ENTRIES                                                  \
	((4096u - (uint32_t)sizeof(struct kvm_coalesced_mmio_ring)) / \
	 (uint32_t)sizeof(struct kvm_coalesced_mmio))
_Static_assert(RING_ENTRIES == 170, "KVM's ring");

/* Does [@address, @address + @size_bytes) lie in the zone? */
static bool holds(const struct coalesced_zone *zone, enum iobus_kind kind, uint64_t address,
		  uint32_t size_bytes)
{
	uint64_t offset = address - zone->address;

	return zone->kind == kind && address >= zone->address && offset <= zone->size_bytes &&
	       zone->size_bytes - offset >= size_bytes;
}

static bool in_zone(const struct iobus *bus, enum iobus_kind kind, const struct cpu_io *io)
{
	for (const struct coalesced_zone *zone = bus->zones; zone; zone = zone->next)
		if (holds(zone, kind, io->address, io->size_bytes))
			return true;
	return false;
}

bool coalesced_write_locked(struct iobus *bus, enum iobus_kind kind, const struct cpu_io *io)
{
	struct kvm_coalesced_mmio_ring *ring = bus->ring;
	struct kvm_coalesced_mmio *entry;
	uint32_t first, last;

	if (!ring || !bus->zones || !in_zone(bus, kind, io))
		return false;
	/* The client may have written anything here: one read each, then a check. */
	first = __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE);
	last = __atomic_load_n(&ring->last, __ATOMIC_RELAXED);
	if (last >= RING_ENTRIES || (last + 1) % RING_ENTRIES == first)
		return false;
	entry = &ring->coalesced_mmio[last];
	entry->phys_addr = io->address;
	entry->len = io->size_bytes;
	entry->pio = kind == IOBUS_PIO;
	memcpy(entry->data, io->data, io->size_bytes);
	/* Pairs with the client's read of last before it reads the entry. */
	__atomic_store_n(&ring->last, (last + 1) % RING_ENTRIES, __ATOMIC_RELEASE);
	return true;
}

long coalesced_register(struct ioctl_call *call)
{
	const struct kvm_coalesced_mmio_zone *request = call->data;
	struct vm *vm = call->object;
	struct iobus *bus = &vm->bus;
	struct coalesced_zone *zone;
	enum iobus_kind kind;

	if (request->pio > 1)
		return -EINVAL;
	kind = request->pio ? IOBUS_PIO : IOBUS_MMIO;
	zone = process_heap_alloc(sizeof(*zone));
	if (!zone)
		return -ENOMEM;
	zone->address = request->addr;
	zone->size_bytes = request->size;
	zone->kind = kind;
	process_lock_acquire(&bus->lock);
	if (bus->device_count[kind] >= IOBUS_MAX_DEVICES) {
		process_lock_release(&bus->lock);
		process_heap_free(zone);
		return -ENOSPC;
	}
	bus->device_count[kind]++;
	zone->next = bus->zones;
	bus->zones = zone;
	process_lock_release(&bus->lock);
	return 0;
}

/* Every zone that the client's range lies in goes: a part of a zone names it, too. */
long coalesced_unregister(struct ioctl_call *call)
{
	const struct kvm_coalesced_mmio_zone *request = call->data;
	struct vm *vm = call->object;
	struct iobus *bus = &vm->bus;
	struct coalesced_zone **link = &bus->zones;
	enum iobus_kind kind;

	if (request->pio > 1)
		return -EINVAL;
	kind = request->pio ? IOBUS_PIO : IOBUS_MMIO;
	process_lock_acquire(&bus->lock);
	while (*link) {
		struct coalesced_zone *zone = *link;

		if (!holds(zone, kind, request->addr, request->size)) {
			link = &zone->next;
			continue;
		}
		*link = zone->next;
		bus->device_count[zone->kind]--;
		process_heap_free(zone);
	}
	process_lock_release(&bus->lock);
	return 0;
}
