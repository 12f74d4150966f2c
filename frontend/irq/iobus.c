/* The I/O buses: who answers an access before the client is asked. */
#include "frontend/irq/iobus.h"

#include "frontend/file/hidden_fd.h"
#include "frontend/object/vm.h"
#include "hosts/process/heap.h"

void iobus_init(struct iobus *bus)
{
	pthread_mutex_init(&bus->lock, NULL);
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
	pthread_mutex_destroy(&bus->lock);
}

enum cpu_io_result iobus_access(struct vm *vm, enum iobus_kind kind, const struct cpu_io *io)
{
	struct iobus *bus = &vm->bus;
	bool taken;

	if (!io->is_write)
		return CPU_IO_USER;
	pthread_mutex_lock(&bus->lock);
	taken = ioeventfd_write_locked(bus, kind, io) || coalesced_write_locked(bus, kind, io);
	pthread_mutex_unlock(&bus->lock);
	return taken ? CPU_IO_DONE : CPU_IO_USER;
}
