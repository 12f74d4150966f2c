/*
 * Eventfds that raise a guest's interrupt.
 *
 * A thread a VM waits for all of its eventfds and pulses the GSI of each that was signalled. The
 * list is the process's, as an eventfd raises one interrupt of one VM only. One lock keeps it, held
 * while an interrupt is raised too: once an eventfd is deassigned it raises nothing any more.
 */
#include "frontend/irqfd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frontend/client_call.h"
#include "frontend/dispatch.h"
#include "frontend/hidden_fd.h"
#include "frontend/iobus.h"
#include "frontend/uapi.h"
#include "frontend/vm.h"

/* Key of the control eventfd; those of irqfds count from 1. */
#define CONTROL_KEY 0u

struct irqfd {
	struct irqfd *next;
	struct vm *vm;
	uint32_t gsi;
	int fd;	      /* our own duplicate, hidden */
	uint64_t key; /* what epoll reports: never used twice */
};

/* Outer to irqchip.lock. */
static pthread_mutex_t irqfds_lock = PTHREAD_MUTEX_INITIALIZER;
static struct irqfd *irqfds;
static uint64_t last_key = CONTROL_KEY;

/* Take the count. The description is the client's too, which may have emptied it: never wait. */
static bool was_signalled(int fd)
{
	uint64_t count;
	struct iovec place = {.iov_base = &count, .iov_len = sizeof(count)};

	return preadv2(fd, &place, 1, -1, RWF_NOWAIT) == sizeof(count);
}

static void raise_interrupt(struct vm *vm, uint64_t key)
{
	pthread_mutex_lock(&irqfds_lock);
	for (struct irqfd *irqfd = irqfds; irqfd; irqfd = irqfd->next)
		if (irqfd->vm == vm && irqfd->key == key && was_signalled(irqfd->fd))
			irqchip_pulse(vm, irqfd->gsi);
	pthread_mutex_unlock(&irqfds_lock);
}

static void *listen_thread(void *argument)
{
	struct vm *vm = argument;
	struct epoll_event event;

	client_call_begin();
	for (;;) {
		int count = epoll_wait(vm->irqfds.epoll_fd, &event, 1, -1);

		if (count < 0 && errno != EINTR)
			break;
		if (count <= 0)
			continue;
		if (event.data.u64 == CONTROL_KEY)
			break;
		raise_interrupt(vm, event.data.u64);
	}
	client_call_end();
	return NULL;
}

/* @fd, which is new, at a hidden number. Closes @fd. */
static int hide(int fd)
{
	int hidden, error = -errno;

	if (fd < 0)
		return error;
	hidden = hidden_fd_move(fd);
	close(fd);
	return hidden;
}

static int watch(const struct vm_irqfds *listener, int fd, uint64_t key)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = key};

	return epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

/* The client's handlers must never run on a thread that the client does not know. */
static int start_thread(struct vm *vm)
{
	sigset_t all, old;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	error = pthread_create(&vm->irqfds.thread, NULL, listen_thread, vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -error;
}

static int start_locked(struct vm *vm)
{
	struct vm_irqfds *listener = &vm->irqfds;
	int error;

	if (listener->started)
		return 0;
	listener->epoll_fd = hide(epoll_create1(EPOLL_CLOEXEC));
	if (listener->epoll_fd < 0)
		return listener->epoll_fd;
	listener->control_fd = hide(eventfd(0, EFD_CLOEXEC));
	error = listener->control_fd;
	if (error < 0)
		goto close_epoll;
	error = watch(listener, listener->control_fd, CONTROL_KEY);
	if (!error)
		error = start_thread(vm);
	if (error)
		goto close_control;
	listener->started = true;
	return 0;
close_control:
	hidden_fd_close(listener->control_fd);
close_epoll:
	hidden_fd_close(listener->epoll_fd);
	return error;
}

static bool is_assigned_locked(int fd)
{
	for (const struct irqfd *irqfd = irqfds; irqfd; irqfd = irqfd->next)
		if (eventfd_same(irqfd->fd, fd))
			return true;
	return false;
}

static int insert_locked(struct irqfd *irqfd)
{
	int error;

	if (is_assigned_locked(irqfd->fd))
		return -EBUSY;
	error = start_locked(irqfd->vm);
	if (error)
		return error;
	irqfd->key = ++last_key;
	/* An eventfd that was signalled before raises its interrupt now. */
	error = watch(&irqfd->vm->irqfds, irqfd->fd, irqfd->key);
	if (error)
		return error;
	irqfd->next = irqfds;
	irqfds = irqfd;
	return 0;
}

static long assign(struct vm *vm, const struct kvm_irqfd *request)
{
	struct irqfd *irqfd;
	long result;

	if (!irqchip_has_lapic(&vm->irqchip) || request->gsi >= IRQCHIP_MAX_ROUTES)
		return -EINVAL;
	irqfd = malloc(sizeof(*irqfd));
	if (!irqfd)
		return -ENOMEM;
	*irqfd = (struct irqfd){.vm = vm, .gsi = request->gsi};
	/* Ours first: another thread may give the client's number to something else. */
	irqfd->fd = hidden_fd_move((int)request->fd);
	result = irqfd->fd < 0 ? irqfd->fd : eventfd_check(irqfd->fd);
	if (!result) {
		pthread_mutex_lock(&irqfds_lock);
		result = insert_locked(irqfd);
		pthread_mutex_unlock(&irqfds_lock);
	}
	if (result) {
		if (irqfd->fd >= 0)
			hidden_fd_close(irqfd->fd);
		free(irqfd);
	}
	return result;
}

/* Closing our duplicate does not end epoll's interest while the client's own is open. */
static void remove_locked(struct irqfd **link)
{
	struct irqfd *irqfd = *link;

	*link = irqfd->next;
	epoll_ctl(irqfd->vm->irqfds.epoll_fd, EPOLL_CTL_DEL, irqfd->fd, NULL);
	hidden_fd_close(irqfd->fd);
	free(irqfd);
}

/* One that was never assigned is no error. */
static long deassign(struct vm *vm, const struct kvm_irqfd *request)
{
	struct irqfd **link = &irqfds;
	int error = eventfd_check((int)request->fd);

	if (error)
		return error;
	pthread_mutex_lock(&irqfds_lock);
	while (*link) {
		if ((*link)->vm == vm && (*link)->gsi == request->gsi &&
		    eventfd_same((*link)->fd, (int)request->fd))
			remove_locked(link);
		else
			link = &(*link)->next;
	}
	pthread_mutex_unlock(&irqfds_lock);
	return 0;
}

long vm_irqfd(struct ioctl_call *call)
{
	const struct kvm_irqfd *request = call->data;

	/* No resampling: its capability is not offered. */
	if (request->flags & ~(uint32_t)KVM_IRQFD_FLAG_DEASSIGN)
		return -EINVAL;
	if (request->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return deassign(call->object, request);
	return assign(call->object, request);
}

void irqfds_destroy(struct vm *vm)
{
	struct vm_irqfds *listener = &vm->irqfds;
	struct irqfd **link = &irqfds;
	uint64_t one = 1;

	if (!listener->started)
		return;
	(void)!write(listener->control_fd, &one, sizeof(one));
	pthread_join(listener->thread, NULL);
	pthread_mutex_lock(&irqfds_lock);
	while (*link) {
		if ((*link)->vm == vm)
			remove_locked(link);
		else
			link = &(*link)->next;
	}
	pthread_mutex_unlock(&irqfds_lock);
	hidden_fd_close(listener->control_fd);
	hidden_fd_close(listener->epoll_fd);
}
