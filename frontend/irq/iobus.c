/* The I/O buses: what answers an access before the client is asked. */
#include "frontend/irq/iobus.h"

#include "frontend/file/hidden_fd.h"
#include "frontend/object/vm.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

void iobus_init(struct iobus *bus)
{
	bus->lock = (struct process_lock){0};
}

void iobus_destroy(struct iobus *bus)
{
	while (bus->zones) {
		struct coalesced_zone *zone = bus->zones;

		bus->zones = zone->next;
		process_heap_free(zone);
	}
	while (bus->eventfds) {
		struct ioeventfd *eventfd = bus->eventfds;

		bus->eventfds = eventfd->next;
		hidden_fd_close(eventfd->fd);
		process_heap_free(eventfd);
	}
}

enum cpu_io_result iobus_access(struct vm *vm, enum iobus_kind kind, const struct cpu_io *io)
{
	struct iobus *bus = &vm->bus;
	bool taken;

	if (!io->is_write)
		return CPU_IO_USER;
	process_lock_acquire(&bus->lock);
	taken = ioeventfd_write_locked(bus, kind, io) || coalesced_write_locked(bus, kind, io);
	process_lock_release(&bus->lock);
	return taken ? CPU_IO_DONE : CPU_IO_USER;
}
