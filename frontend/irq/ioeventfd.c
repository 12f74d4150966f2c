/* Eventfds that a guest's write signals. */
#include <errno.h>
#include <string.h>

#include "frontend/file/eventfd.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/irq/iobus.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/vm.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"

/* The last means nothing by itself: KVM keeps its number for a bus inside. */
#define FLAG_FAST_MMIO (1u << 4)
#define FLAGS_KNOWN                                                                            \
	(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN | \
	 KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY | FLAG_FAST_MMIO)

/* Compare @size_bytes of the data, which has no particular alignment. */
static bool matches(const struct ioeventfd *eventfd, const struct cpu_io *io)
{
	uint64_t value = 0;

	if (eventfd->address != io->address)
		return false;
	if (!eventfd->size_bytes)
		return true;
	if (eventfd->size_bytes != io->size_bytes)
		return false;
	if (eventfd->wildcard)
		return true;
	memcpy(&value, io->data, io->size_bytes);
	return value == eventfd->datamatch;
}

bool ioeventfd_write_locked(struct iobus *bus, enum iobus_kind kind, const struct cpu_io *io)
{
	for (const struct ioeventfd *eventfd = bus->eventfds; eventfd; eventfd = eventfd->next) {
		if (eventfd->kind == kind && matches(eventfd, io) && !eventfd_signal(eventfd->fd))
			return true;
	}
	return false;
}

static bool collides(const struct ioeventfd *a, const struct ioeventfd *b)
{
	if (a->kind != b->kind || a->address != b->address)
		return false;
	if (!a->size_bytes || !b->size_bytes)
		return true;
	return a->size_bytes == b->size_bytes &&
	       (a->wildcard || b->wildcard || a->datamatch == b->datamatch);
}

static long assign(struct iobus *bus, const struct ioeventfd *request)
{
	struct ioeventfd *eventfd = process_heap_alloc(sizeof(*eventfd));
	long result = 0;

	if (!eventfd)
		return -ENOMEM;
	*eventfd = *request;
	eventfd->fd = hidden_fd_move(request->fd);
	if (eventfd->fd < 0) {
		result = eventfd->fd;
		process_heap_free(eventfd);
		return result;
	}
	process_lock_acquire(&bus->lock);
	for (const struct ioeventfd *other = bus->eventfds; other; other = other->next)
		if (collides(other, eventfd))
			result = -EEXIST;
	if (!result && bus->device_count[request->kind] >= IOBUS_MAX_DEVICES)
		result = -ENOSPC;
	if (!result) {
		bus->device_count[request->kind]++;
		eventfd->next = bus->eventfds;
		bus->eventfds = eventfd;
	}
	process_lock_release(&bus->lock);
	if (result) {
		hidden_fd_close(eventfd->fd);
		process_heap_free(eventfd);
	}
	return result;
}

static bool same(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->kind == b->kind && a->address == b->address && a->size_bytes == b->size_bytes &&
	       a->wildcard == b->wildcard && (a->wildcard || a->datamatch == b->datamatch) &&
	       eventfd_same(a->fd, b->fd);
}

static long deassign(struct iobus *bus, const struct ioeventfd *request)
{
	struct ioeventfd **link = &bus->eventfds, *found;

	process_lock_acquire(&bus->lock);
	while (*link && !same(*link, request))
		link = &(*link)->next;
	found = *link;
	if (found) {
		*link = found->next;
		bus->device_count[found->kind]--;
	}
	process_lock_release(&bus->lock);
	if (!found)
		return -ENOENT;
	hidden_fd_close(found->fd);
	process_heap_free(found);
	return 0;
}

static int check(const struct kvm_ioeventfd *request)
{
	switch (request->len) {
	case 0:
	case 1:
	case 2:
	case 4:
	case 8:
		break;
	default:
		return -EINVAL;
	}
	if (request->addr + request->len < request->addr)
		return -EINVAL;
	if (request->flags & ~(uint32_t)FLAGS_KNOWN)
		return -EINVAL;
	if (!request->len && (request->flags & KVM_IOEVENTFD_FLAG_DATAMATCH))
		return -EINVAL;
	return 0;
}

static enum iobus_kind kind_of(uint32_t flags)
{
	if (flags & KVM_IOEVENTFD_FLAG_PIO)
		return IOBUS_PIO;
	return flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY ? IOBUS_CCW : IOBUS_MMIO;
}

long ioeventfd_ioctl(struct ioctl_call *call)
{
	const struct kvm_ioeventfd *request = call->data;
	struct vm *vm = call->object;
	struct ioeventfd eventfd = {
	    .address = request->addr,
	    .size_bytes = request->len,
	    .kind = kind_of(request->flags),
	    .wildcard = !(request->flags & KVM_IOEVENTFD_FLAG_DATAMATCH),
	    .datamatch = request->datamatch,
	    .fd = request->fd,
	};
	bool removes = (request->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) != 0;
	int error = removes ? 0 : check(request);

	/* What is not there need not make sense, either. */
	if (!error)
		error = eventfd_check(request->fd);
	if (error)
		return error;
	if (removes)
		return deassign(&vm->bus, &eventfd);
	return assign(&vm->bus, &eventfd);
}
