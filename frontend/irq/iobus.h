/* What answers port and memory accesses inside: eventfds and coalesced zones. */
#ifndef QUIRE_FRONTEND_IRQ_IOBUS_H
#define QUIRE_FRONTEND_IRQ_IOBUS_H

#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/lock.h"
#include "vcpu/cpu.h"

struct ioctl_call;
struct vm;
struct vcpu;

/* Devices a bus takes (coalesced zones and eventfds together), as in KVM. */
#define IOBUS_MAX_DEVICES 1000u

/* On the last, which is s390's, no x86 guest has an access. */
enum iobus_kind { IOBUS_MMIO, IOBUS_PIO, IOBUS_CCW, IOBUS_KINDS };

struct coalesced_zone {
	struct coalesced_zone *next;
	uint64_t address;
	uint64_t size_bytes;
	enum iobus_kind kind;
};

struct ioeventfd {
	struct ioeventfd *next;
	uint64_t address;
	uint32_t size_bytes; /* 0: any length */
	enum iobus_kind kind;
	bool wildcard; /* no datamatch */
	uint64_t datamatch;
	int fd; /* our own duplicate */
};

struct iobus {
	struct process_lock lock;
	struct coalesced_zone *zones;
	struct ioeventfd *eventfds;
	unsigned int device_count[IOBUS_KINDS];
	void *ring; /* page with the VM's coalesced ring; NULL when no vCPU has one */
};

void iobus_init(struct iobus *bus);
void iobus_destroy(struct iobus *bus);
/* An access that no device answered: DONE when an eventfd or a coalesced zone took it. */
enum cpu_io_result iobus_access(struct vm *vm, enum iobus_kind kind, const struct cpu_io *io);

/* coalesced.c; append a write that lies inside a zone. Under bus.lock. */
bool coalesced_write_locked(struct iobus *bus, enum iobus_kind kind, const struct cpu_io *io);
long coalesced_register(struct ioctl_call *call);
long coalesced_unregister(struct ioctl_call *call);

/* ioeventfd.c; signal the eventfds that match a write. Under bus.lock. */
bool ioeventfd_write_locked(struct iobus *bus, enum iobus_kind kind, const struct cpu_io *io);
long ioeventfd_ioctl(struct ioctl_call *call);

#endif
