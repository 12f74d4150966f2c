/* Eventfds that raise a guest's interrupt. */
#ifndef QUIRE_FRONTEND_IRQFD_H
#define QUIRE_FRONTEND_IRQFD_H

#include <pthread.h>
#include <stdbool.h>

struct ioctl_call;
struct vm;

/* A VM's listener: one thread, started by the first assignment. Under the lock of irqfd.c. */
struct vm_irqfds {
	int epoll_fd;	/* hidden */
	int control_fd; /* hidden; an eventfd that ends the thread */
	pthread_t thread;
	bool started;
};

/* KVM_IRQFD: -EBUSY when the eventfd is assigned already, in whichever VM of the process. */
long vm_irqfd(struct ioctl_call *call);
/* Drop all of @vm and end its thread. Holds no lock of the VM. */
void irqfds_destroy(struct vm *vm);

#endif
