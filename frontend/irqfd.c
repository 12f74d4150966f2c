/*
 * Eventfds that raise a guest's interrupt.
 *
 * A thread a VM waits for all of its eventfds and pulses the GSI of each that was signalled. The
 * set is the process's, as an eventfd raises one interrupt of one VM only. One lock keeps it, held
 * while an interrupt is raised too: once an eventfd is deassigned it raises nothing any more.
 *
 * KVM drops an eventfd that the client closes. Our duplicate keeps it open, and nobody tells us
 * that the client's own is gone, so a client that never deassigns leaves thousands behind: the
 * set is in the order of eventfd_compare() and is never walked, for the lock to be held shortly.
 */
#include "frontend/irqfd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frontend/client_call.h"
#include "frontend/dispatch.h"
#include "frontend/eventfd.h"
#include "frontend/hidden_fd.h"
#include "frontend/uapi.h"
#include "frontend/vm.h"
#include "hosts/process/fork.h"

/* Key of the control eventfd; those of irqfds count from 1. */
#define CONTROL_KEY 0u

struct irqfd {
	struct irqfd *next; /* in its bucket */
	struct vm *vm;
	uint32_t gsi;
	int fd;	      /* our own duplicate, hidden */
	uint64_t key; /* what epoll reports: never used twice */
};

#define BUCKETS 1024u

/* Outer to irqchip.lock. Guards all that follow. */
static pthread_mutex_t irqfds_lock = PTHREAD_MUTEX_INITIALIZER;
static struct irqfd **irqfds; /* in the order of their eventfds */
static uint32_t irqfd_count, irqfd_room;
static struct irqfd *buckets[BUCKETS]; /* by key */
static uint64_t last_key = CONTROL_KEY;

/*
 * The irqfds are the parent's, and so are the eventfds behind our duplicates. A VM of the child
 * starts a thread of its own.
 */
static void fork_child(void)
{
	pthread_mutex_init(&irqfds_lock, NULL);
	irqfd_count = 0;
	memset(buckets, 0, sizeof(buckets));
}
FORK_CHILD(FORK_IRQFDS, irqfds_lock, fork_child);

/* Take the count. The description is the client's too, which may have emptied it: never wait. */
static bool was_signalled(int fd)
{
	uint64_t count;
	struct iovec place = {.iov_base = &count, .iov_len = sizeof(count)};

	return preadv2(fd, &place, 1, -1, RWF_NOWAIT) == sizeof(count);
}

static void raise_interrupt(struct vm *vm, uint64_t key)
{
	struct irqfd *irqfd;

	pthread_mutex_lock(&irqfds_lock);
	irqfd = buckets[key % BUCKETS];
	while (irqfd && irqfd->key != key)
		irqfd = irqfd->next;
	if (irqfd && was_signalled(irqfd->fd))
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

/* Where the eventfd @fd is in the set, or belongs; *@found: it is there. */
static uint32_t find_locked(int fd, bool *found)
{
	uint32_t low = 0, high = irqfd_count;

	*found = false;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		int order = eventfd_compare(irqfds[middle]->fd, fd);

		if (!order) {
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int make_room_locked(void)
{
	uint32_t room = irqfd_room ? irqfd_room * 2 : 64;
	struct irqfd **grown;

	if (irqfd_count < irqfd_room)
		return 0;
	grown = realloc(irqfds, room * sizeof(*irqfds));
	if (!grown)
		return -ENOMEM;
	irqfds = grown;
	irqfd_room = room;
	return 0;
}

static int insert_locked(struct irqfd *irqfd)
{
	bool is_assigned;
	uint32_t at = find_locked(irqfd->fd, &is_assigned);
	int error;

	if (is_assigned)
		return -EBUSY;
	error = make_room_locked();
	if (!error)
		error = start_locked(irqfd->vm);
	if (error)
		return error;
	irqfd->key = ++last_key;
	/* An eventfd that was signalled before raises its interrupt now. */
	error = watch(&irqfd->vm->irqfds, irqfd->fd, irqfd->key);
	if (error)
		return error;
	memmove(irqfds + at + 1, irqfds + at, (irqfd_count - at) * sizeof(*irqfds));
	irqfds[at] = irqfd;
	irqfd_count++;
	irqfd->next = buckets[irqfd->key % BUCKETS];
	buckets[irqfd->key % BUCKETS] = irqfd;
	return 0;
}

static long assign(struct vm *vm, const struct kvm_irqfd *request)
{
	struct irqfd *irqfd;
	long result;

	if (!irqchip_has_lapic(&vm->irqchip))
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
static void free_irqfd(struct irqfd *irqfd)
{
	struct irqfd **link = &buckets[irqfd->key % BUCKETS];

	while (*link != irqfd)
		link = &(*link)->next;
	*link = irqfd->next;
	epoll_ctl(irqfd->vm->irqfds.epoll_fd, EPOLL_CTL_DEL, irqfd->fd, NULL);
	hidden_fd_close(irqfd->fd);
	free(irqfd);
}

/* One that was never assigned is no error. */
static long deassign(struct vm *vm, const struct kvm_irqfd *request)
{
	int error = eventfd_check((int)request->fd);
	bool found;
	uint32_t at;

	if (error)
		return error;
	pthread_mutex_lock(&irqfds_lock);
	at = find_locked((int)request->fd, &found);
	if (found && irqfds[at]->vm == vm && irqfds[at]->gsi == request->gsi) {
		free_irqfd(irqfds[at]);
		irqfd_count--;
		memmove(irqfds + at, irqfds + at + 1, (irqfd_count - at) * sizeof(*irqfds));
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
	uint64_t one = 1;
	uint32_t kept = 0;

	if (!listener->started)
		return;
	(void)!write(listener->control_fd, &one, sizeof(one));
	pthread_join(listener->thread, NULL);
	pthread_mutex_lock(&irqfds_lock);
	for (uint32_t i = 0; i < irqfd_count; i++) {
		if (irqfds[i]->vm == vm)
			free_irqfd(irqfds[i]);
		else
			irqfds[kept++] = irqfds[i];
	}
	irqfd_count = kept;
	pthread_mutex_unlock(&irqfds_lock);
	hidden_fd_close(listener->control_fd);
	hidden_fd_close(listener->epoll_fd);
}
