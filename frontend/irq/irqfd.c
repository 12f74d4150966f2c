/*
 * Eventfds that raise a guest's interrupt.
 *
 * A thread a VM waits for all of its eventfds and raises the GSI of each that was signalled. The
 * set is the process's, as an eventfd raises one interrupt of one VM only; it is keyed by the
 * kernel's numbers for eventfds.
 *
 * KVM drops an eventfd that the client closes, so this must not keep it open: an irqfd is an epoll
 * set of its own that watches the eventfd, and the kernel takes an eventfd out of such a set when
 * its last descriptor goes. To take the count that was signalled one needs a descriptor, though: a
 * duplicate of the client's, made at the first signal, is held as long as signals come. An eventfd
 * whose number the client gave away is never read; edges raise its interrupts all the same.
 *
 * Locks, outer to inner: irqfds_lock, vm_irqfds.lock, irqchip.lock. An irqfd leaves under the two
 * first, so that one that was deassigned raises nothing any more.
 */
#include "frontend/irq/irqfd.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frontend/file/client_call.h"
#include "frontend/file/eventfd.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/vm.h"
#include "frontend/uapi.h"
#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"

/* Key of the control eventfd; those of irqfds count from 1. */
#define CONTROL_KEY 0u
/* A duplicate that was not needed for so long is closed. */
#define HELD_MS 1000

struct irqfd {
	struct irqfd *next;	   /* in its bucket of the listener, by key */
	struct irqfd *next_in_set; /* in its bucket of the set, by id */
	struct vm *vm;
	uint32_t gsi;
	bool resamples;
	struct resample resample;
	uint64_t id;	 /* the kernel's number for the eventfd; 0 where it has none */
	uint64_t key;	 /* what epoll reports: never used twice */
	int watch_fd;	 /* hidden; an epoll set with the eventfd alone */
	int client_fd;	 /* the client's number for it, at assignment */
	int fd;		 /* hidden duplicate; -1: not held */
	bool is_used;	 /* the duplicate was, since the last sweep */
	bool is_strange; /* the client's number is no longer this eventfd */
};

#define SET_BUCKETS 1024u

/* Guards the set and what starts and ends listeners. */
static struct process_lock irqfds_lock;
static struct irqfd *set[SET_BUCKETS];	/* by id */
static uint32_t set_count, set_checked; /* of the last look for closed ones: how many stayed */
static uint64_t last_key = CONTROL_KEY;

/*
 * The irqfds are the parent's, and so are the eventfds that they watch. A VM of the child starts a
 * thread of its own.
 */
static void fork_child(void)
{
	(void)process_lock_start_anew(&irqfds_lock);
	memset(set, 0, sizeof(set));
	set_count = set_checked = 0;
}
FORK_CHILD(FORK_IRQFDS, irqfds_lock, fork_child);

void irqfds_init(struct vm_irqfds *listener)
{
	listener->lock = (struct process_lock){0};
}

/* Take the count. The description is the client's too, which may have emptied it: never wait. */
static void take_count(int fd)
{
	uint64_t count;
	struct iovec place = {.iov_base = &count, .iov_len = sizeof(count)};

	(void)!preadv2(fd, &place, 1, -1, RWF_NOWAIT);
}

/* Hold a duplicate of the eventfd, if the client's number still is one. */
static void hold(struct irqfd *irqfd)
{
	int fd;

	if (irqfd->fd >= 0 || irqfd->is_strange)
		return;
	fd = hidden_fd_move(irqfd->client_fd);
	if (fd >= 0 && eventfd_id(fd) == irqfd->id && irqfd->id) {
		irqfd->fd = fd;
		irqfd->vm->irqfds.held_count++;
		return;
	}
	if (fd >= 0)
		hidden_fd_close(fd);
	irqfd->is_strange = true;
}

static void let_go(struct irqfd *irqfd)
{
	if (irqfd->fd < 0)
		return;
	hidden_fd_close(irqfd->fd);
	irqfd->fd = -1;
	irqfd->vm->irqfds.held_count--;
}

static void raise_interrupt(struct vm *vm, uint64_t key)
{
	struct vm_irqfds *listener = &vm->irqfds;
	struct irqfd *irqfd;

	process_lock_acquire(&listener->lock);
	irqfd = listener->buckets[key % IRQFD_BUCKETS];
	while (irqfd && irqfd->key != key)
		irqfd = irqfd->next;
	if (irqfd) {
		hold(irqfd);
		irqfd->is_used = true;
		if (irqfd->fd >= 0)
			take_count(irqfd->fd);
		if (irqfd->resamples)
			irqchip_drive(vm, irqfd->gsi, IRQ_SOURCE_RESAMPLE, true);
		else
			irqchip_pulse(vm, irqfd->gsi);
	}
	process_lock_release(&listener->lock);
}

/* Close duplicates that were not used since the last time. */
static void sweep(struct vm_irqfds *listener)
{
	process_lock_acquire(&listener->lock);
	for (uint32_t i = 0; i < IRQFD_BUCKETS; i++) {
		for (struct irqfd *irqfd = listener->buckets[i]; irqfd; irqfd = irqfd->next) {
			/* Without an id this is all that tells it from another. */
			if (!irqfd->is_used && irqfd->id)
				let_go(irqfd);
			irqfd->is_used = false;
		}
	}
	process_lock_release(&listener->lock);
}

static bool holds_any(struct vm_irqfds *listener)
{
	bool holds;

	process_lock_acquire(&listener->lock);
	holds = listener->held_count != 0;
	process_lock_release(&listener->lock);
	return holds;
}

static void *listen_thread(void *argument)
{
	struct vm *vm = argument;
	struct vm_irqfds *listener = &vm->irqfds;
	uint64_t sweep_ns = 0;
	struct epoll_event event;

	client_call_begin();
	for (;;) {
		int count =
		    epoll_wait(listener->epoll_fd, &event, 1, holds_any(listener) ? HELD_MS : -1);
		uint64_t now_ns = timers_now_ns();

		if (count < 0 && errno != EINTR)
			break;
		if (count > 0 && event.data.u64 == CONTROL_KEY)
			break;
		if (count > 0)
			raise_interrupt(vm, event.data.u64);
		if (now_ns - sweep_ns > HELD_MS * UINT64_C(1000000)) {
			sweep(listener);
			sweep_ns = now_ns;
		}
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

static int watch(int epoll_fd, int fd, uint64_t key)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = key};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
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
	error = watch(listener->epoll_fd, listener->control_fd, CONTROL_KEY);
	if (!error)
		error = helper_start(&listener->thread, listen_thread, vm);
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

/* Is the eventfd gone? The kernel has then taken it out of its set. */
static bool is_closed(const struct irqfd *irqfd)
{
	char path[64], line[128];
	bool is_watched = false;
	FILE *file;

	if (irqfd->fd >= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", irqfd->watch_fd);
	file = fopen(path, "re");
	if (!file)
		return false;
	while (!is_watched && fgets(line, sizeof(line), file))
		is_watched = !strncmp(line, "tfd:", 4);
	fclose(file);
	return !is_watched;
}

/* Both locks held: out of both tables. */
static void unlink_locked(struct irqfd *irqfd)
{
	struct irqfd **link = &set[irqfd->id % SET_BUCKETS];

	while (*link != irqfd)
		link = &(*link)->next_in_set;
	*link = irqfd->next_in_set;
	set_count--;
	link = &irqfd->vm->irqfds.buckets[irqfd->key % IRQFD_BUCKETS];
	while (*link != irqfd)
		link = &(*link)->next;
	*link = irqfd->next;
	let_go(irqfd);
}

/* After unlink_locked(), or of one that never was in the tables. */
static void free_irqfd(struct irqfd *irqfd)
{
	if (irqfd->resamples)
		resample_remove(irqfd->vm, &irqfd->resample);
	if (irqfd->resample.fd >= 0)
		hidden_fd_close(irqfd->resample.fd);
	if (irqfd->fd >= 0)
		hidden_fd_close(irqfd->fd);
	if (irqfd->watch_fd >= 0)
		hidden_fd_close(irqfd->watch_fd);
	process_heap_free(irqfd);
}

static void drop_locked(struct irqfd *irqfd)
{
	struct vm_irqfds *listener = &irqfd->vm->irqfds;

	process_lock_acquire(&listener->lock);
	unlink_locked(irqfd);
	process_lock_release(&listener->lock);
	free_irqfd(irqfd);
}

/* Drop what the client has closed, each time as many were added as stayed the last time. */
static void drop_closed_locked(void)
{
	if (set_count < 2 * set_checked + 8)
		return;
	for (uint32_t i = 0; i < SET_BUCKETS; i++) {
		struct irqfd *next, *irqfd = set[i];

		for (; irqfd; irqfd = next) {
			bool closed;

			next = irqfd->next_in_set;
			process_lock_acquire(&irqfd->vm->irqfds.lock);
			closed = is_closed(irqfd);
			process_lock_release(&irqfd->vm->irqfds.lock);
			if (closed)
				drop_locked(irqfd);
		}
	}
	set_checked = set_count;
}

/* The irqfd of the eventfd @fd, whose number is @id, NULL when it has none. */
static struct irqfd *find_locked(int fd, uint64_t id)
{
	struct irqfd *irqfd = set[id % SET_BUCKETS];

	for (; irqfd; irqfd = irqfd->next_in_set) {
		bool closed;

		if (irqfd->id != id || (!id && eventfd_compare(irqfd->fd, fd)))
			continue;
		process_lock_acquire(&irqfd->vm->irqfds.lock);
		closed = is_closed(irqfd);
		process_lock_release(&irqfd->vm->irqfds.lock);
		if (!closed)
			return irqfd;
		/* The number is free again, and another eventfd has it now. */
		drop_locked(irqfd);
		return NULL;
	}
	return NULL;
}

/* Into both tables, and seen by the listener from here on. */
static int insert_locked(struct irqfd *irqfd)
{
	struct vm_irqfds *listener = &irqfd->vm->irqfds;
	struct irqfd **bucket;
	int error;

	drop_closed_locked();
	if (find_locked(irqfd->fd, irqfd->id))
		return -EBUSY;
	error = start_locked(irqfd->vm);
	if (error)
		return error;
	process_lock_acquire(&listener->lock);
	irqfd->key = ++last_key;
	/* An eventfd that was signalled before raises its interrupt now. */
	error = watch(listener->epoll_fd, irqfd->watch_fd, irqfd->key);
	if (!error) {
		bucket = &listener->buckets[irqfd->key % IRQFD_BUCKETS];
		irqfd->next = *bucket;
		*bucket = irqfd;
		bucket = &set[irqfd->id % SET_BUCKETS];
		irqfd->next_in_set = *bucket;
		*bucket = irqfd;
		set_count++;
		listener->held_count++;
		/* From here on the kernel may take it away. */
		if (irqfd->id)
			let_go(irqfd);
	}
	process_lock_release(&listener->lock);
	return error;
}

/* Ours first: another thread may give the client's number to something else. */
static int open_eventfd(int client_fd)
{
	int fd = hidden_fd_move(client_fd), error;

	error = fd < 0 ? fd : eventfd_check(fd);
	if (!error)
		return fd;
	if (fd >= 0)
		hidden_fd_close(fd);
	return error;
}

static int prepare(struct irqfd *irqfd, const struct kvm_irqfd *request)
{
	irqfd->fd = open_eventfd((int)request->fd);
	if (irqfd->fd < 0)
		return irqfd->fd;
	irqfd->id = eventfd_id(irqfd->fd);
	if (request->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		irqfd->resample.fd = open_eventfd((int)request->resamplefd);
		if (irqfd->resample.fd < 0)
			return irqfd->resample.fd;
	}
	irqfd->watch_fd = hide(epoll_create1(EPOLL_CLOEXEC));
	if (irqfd->watch_fd < 0)
		return irqfd->watch_fd;
	return watch(irqfd->watch_fd, irqfd->fd, 0);
}

static long assign(struct vm *vm, const struct kvm_irqfd *request)
{
	bool resamples = request->flags & KVM_IRQFD_FLAG_RESAMPLE;
	struct irqfd *irqfd;
	long result;

	if (resamples ? !irqchip_has_pic(&vm->irqchip) : !irqchip_has_lapic(&vm->irqchip))
		return -EINVAL;
	irqfd = process_heap_alloc(sizeof(*irqfd));
	if (!irqfd)
		return -ENOMEM;
	*irqfd = (struct irqfd){
	    .vm = vm,
	    .gsi = request->gsi,
	    .resample = {.gsi = request->gsi, .fd = -1},
	    .watch_fd = -1,
	    .client_fd = (int)request->fd,
	    .fd = -1,
	};
	result = prepare(irqfd, request);
	if (!result && resamples) {
		irqfd->resamples = true;
		resample_add(vm, &irqfd->resample);
	}
	if (!result) {
		process_lock_acquire(&irqfds_lock);
		result = insert_locked(irqfd);
		process_lock_release(&irqfds_lock);
	}
	if (result)
		free_irqfd(irqfd);
	return result;
}

/* One that was never assigned is no error. */
static long deassign(struct vm *vm, const struct kvm_irqfd *request)
{
	int fd = open_eventfd((int)request->fd);
	struct irqfd *irqfd;

	if (fd < 0)
		return fd;
	process_lock_acquire(&irqfds_lock);
	irqfd = find_locked(fd, eventfd_id(fd));
	if (irqfd && irqfd->vm == vm && irqfd->gsi == request->gsi)
		drop_locked(irqfd);
	process_lock_release(&irqfds_lock);
	hidden_fd_close(fd);
	return 0;
}

long vm_irqfd(struct ioctl_call *call)
{
	const struct kvm_irqfd *request = call->data;

	if (request->flags & ~(uint32_t)(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE))
		return -EINVAL;
	if (request->flags & KVM_IRQFD_FLAG_DEASSIGN)
		return deassign(call->object, request);
	return assign(call->object, request);
}

void irqfds_destroy(struct vm *vm)
{
	struct vm_irqfds *listener = &vm->irqfds;
	uint64_t one = 1;

	if (listener->started) {
		(void)!write(listener->control_fd, &one, sizeof(one));
		pthread_join(listener->thread, NULL);
		process_lock_acquire(&irqfds_lock);
		for (uint32_t i = 0; i < IRQFD_BUCKETS; i++)
			while (listener->buckets[i])
				drop_locked(listener->buckets[i]);
		process_lock_release(&irqfds_lock);
		hidden_fd_close(listener->control_fd);
		hidden_fd_close(listener->epoll_fd);
	}
}
