/* Eventfds that raise a guest's interrupt. */
#ifndef QUIRE_FRONTEND_IRQ_IRQFD_H
#define QUIRE_FRONTEND_IRQ_IRQFD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/lock.h"

struct ioctl_call;
struct irqfd;
struct vm;

#define IRQFD_BUCKETS 64u

/* A VM's listener: one thread, started by the first assignment. */
struct vm_irqfds {
	/*
	 * Inner to irqfds_lock of irqfd.c, outer to irqchip.lock. Guards held_count. The buckets
	 * change under this lock and irqfds_lock, so that either is enough to walk them.
	 */
	struct process_lock lock;
	struct irqfd *buckets[IRQFD_BUCKETS]; /* by key */
	uint32_t held_count;		      /* whose duplicates are open */
	/* Made with the VM, for a call that makes no descriptor must not take a number. */
	int epoll_fd;	/* hidden */
	int control_fd; /* hidden; an eventfd that ends the thread */
	/* Set by the first assignment, under the lock of irqfd.c. */
	pthread_t thread;
	bool started;
};

/* 0 or -errno. */
int irqfds_init(struct vm_irqfds *listener);
/* KVM_IRQFD: -EBUSY when the eventfd is assigned already, in whichever VM of the process. */
long vm_irqfd(struct ioctl_call *call);
/* Drop all of @vm and end its thread, also after an irqfds_init() that failed. Holds no lock of the
 * VM. */
void irqfds_destroy(struct vm *vm);

#endif
