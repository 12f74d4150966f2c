/*
 * Eventfds that raise a guest's interrupt.
 *
 * A thread a VM waits for all of its eventfds and raises the GSI of each that was signalled. The
 * set is the process's, as an eventfd raises one interrupt of one VM only.
 *
 * KVM drops an eventfd that the client closes, so this must not keep it open: it is in the VM's
 * epoll set, out of which the kernel takes an eventfd when its last descriptor goes. The set knows
 * it by a number, which is ours as long as the irqfd is there (struct irqfd, watch.number):
 *
 *   a placeholder is open there      the client alone keeps the eventfd
 *   the eventfd is open there        to put it into the set or take it out, and to read the count
 *
 * The count is read from a duplicate of the client's descriptor, made at the first signal and held
 * as long as signals come. An eventfd whose number the client gave away is never read; edges raise
 * its interrupts all the same. No step takes a low number, as KVM's do not.
 *
 * Locks, outer to inner: irqfds_lock, vm_irqfds.lock, irqchip.lock. An irqfd leaves under the two
 * first, so that one that was deassigned raises nothing any more.
 */
#include "frontend/irq/irqfd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
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
#include "hosts/process/sys.h"

/* Key of the control eventfd; those of irqfds count from 1. */
#define CONTROL_KEY 0u
/* A duplicate that was not needed for so long is given up. */
#define HELD_MS 1000

struct irqfd {
	struct irqfd *next;	   /* in its bucket of the listener, by key */
	struct irqfd *next_in_set; /* in its bucket of the set, by id */
	struct vm *vm;
	uint32_t gsi;
	bool resamples;
	struct resample resample;
	struct eventfd_watch watch; /* the number is hidden, -1: none yet */
	int client_fd;		    /* the client's number for it, at assignment */
	bool is_held;		    /* the eventfd is at watch.number, no placeholder */
	bool is_used;		    /* since the last sweep */
	bool is_strange;	    /* the client's number is no longer this eventfd */
	bool is_seen;		    /* while those that are closed are looked for */
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

int irqfds_init(struct vm_irqfds *listener)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = CONTROL_KEY};

	listener->lock = (struct process_lock){0};
	listener->control_fd = -1;
	listener->epoll_fd = hidden_fd_hide(epoll_create1(EPOLL_CLOEXEC));
	if (listener->epoll_fd < 0)
		return listener->epoll_fd;
	listener->control_fd = hidden_fd_hide(eventfd(0, EFD_CLOEXEC));
	if (listener->control_fd < 0)
		return listener->control_fd;
	return epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, listener->control_fd, &event) ? -errno
											  : 0;
}

/* Put what is open at @fd, or a placeholder, where the set has the eventfd. */
static void put_at_number(const struct irqfd *irqfd, int fd)
{
	int number = irqfd->watch.number;

	sys_call(SYS_dup3, (uint64_t)fd, (uint64_t)number, O_CLOEXEC);
}

static void put_placeholder(const struct irqfd *irqfd)
{
	put_at_number(irqfd, irqfd->watch.epoll_fd);
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
	int number = irqfd->watch.number;

	if (irqfd->is_held || irqfd->is_strange)
		return;
	/* What is compared is ours: the client may give its number away at any moment. */
	put_at_number(irqfd, irqfd->client_fd);
	if (eventfd_matches(&irqfd->watch, number)) {
		irqfd->is_held = true;
		irqfd->vm->irqfds.held_count++;
		return;
	}
	put_placeholder(irqfd);
	irqfd->is_strange = true;
}

static void let_go(struct irqfd *irqfd)
{
	if (!irqfd->is_held)
		return;
	put_placeholder(irqfd);
	irqfd->is_held = false;
	irqfd->vm->irqfds.held_count--;
}

static struct irqfd *find_key(struct vm_irqfds *listener, uint64_t key)
{
	struct irqfd *irqfd = listener->buckets[key % IRQFD_BUCKETS];

	while (irqfd && irqfd->watch.key != key)
		irqfd = irqfd->next;
	return irqfd;
}

static void raise_interrupt(struct vm *vm, uint64_t key)
{
	struct vm_irqfds *listener = &vm->irqfds;
	struct irqfd *irqfd;

	process_lock_acquire(&listener->lock);
	irqfd = find_key(listener, key);
	if (irqfd) {
		hold(irqfd);
		irqfd->is_used = true;
		if (irqfd->is_held)
			take_count(irqfd->watch.number);
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
			if (!irqfd->is_used)
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

static int start_locked(struct vm *vm)
{
	struct vm_irqfds *listener = &vm->irqfds;
	int error = 0;

	if (!listener->started)
		error = helper_start(&listener->thread, listen_thread, vm);
	listener->started |= !error;
	return error;
}

/* Both locks held: out of both tables. */
static void unlink_locked(struct irqfd *irqfd)
{
	struct irqfd **link = &set[irqfd->watch.id % SET_BUCKETS];

	while (*link != irqfd)
		link = &(*link)->next_in_set;
	*link = irqfd->next_in_set;
	set_count--;
	link = &irqfd->vm->irqfds.buckets[irqfd->watch.key % IRQFD_BUCKETS];
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
	if (irqfd->watch.number >= 0)
		hidden_fd_close(irqfd->watch.number);
	process_heap_free(irqfd);
}

static void unlink_one_locked(struct irqfd *irqfd)
{
	struct vm_irqfds *listener = &irqfd->vm->irqfds;

	process_lock_acquire(&listener->lock);
	unlink_locked(irqfd);
	process_lock_release(&listener->lock);
}

static void drop_locked(struct irqfd *irqfd)
{
	unlink_one_locked(irqfd);
	free_irqfd(irqfd);
}

static void see(uint64_t key, void *listener)
{
	struct irqfd *irqfd = find_key(listener, key);

	if (irqfd)
		irqfd->is_seen = true;
}

/* Those of @vm that the kernel has taken out of its set. */
static void drop_closed_of_locked(struct vm *vm)
{
	struct vm_irqfds *listener = &vm->irqfds;

	for (uint32_t i = 0; i < IRQFD_BUCKETS; i++)
		for (struct irqfd *irqfd = listener->buckets[i]; irqfd; irqfd = irqfd->next)
			irqfd->is_seen = false;
	if (eventfd_live(listener->epoll_fd, see, listener))
		return;
	for (uint32_t i = 0; i < IRQFD_BUCKETS; i++) {
		struct irqfd *next, *irqfd = listener->buckets[i];

		for (; irqfd; irqfd = next) {
			next = irqfd->next;
			if (!irqfd->is_seen)
				drop_locked(irqfd);
		}
	}
}

/*
 * Drop what the client has closed, each time as many were added as stayed the last time. One VM's
 * at a time: another's go when it adds some.
 */
static void drop_closed_locked(struct vm *vm)
{
	if (set_count < 2 * set_checked + 8)
		return;
	drop_closed_of_locked(vm);
	set_checked = set_count;
}

/* The irqfd of the eventfd @fd, whose number is @id, NULL when it has none. */
static struct irqfd *find_locked(int fd, uint64_t id)
{
	struct irqfd *irqfd = set[id % SET_BUCKETS];

	for (; irqfd; irqfd = irqfd->next_in_set) {
		if (irqfd->watch.id != id || (!id && !eventfd_matches(&irqfd->watch, fd)))
			continue;
		if (!eventfd_is_gone(&irqfd->watch))
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
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	struct irqfd **bucket;
	int error;

	drop_closed_locked(irqfd->vm);
	irqfd->watch.id = eventfd_id(irqfd->watch.number);
	if (find_locked(irqfd->watch.number, irqfd->watch.id))
		return -EBUSY;
	error = start_locked(irqfd->vm);
	if (error)
		return error;
	process_lock_acquire(&listener->lock);
	irqfd->watch.key = ++last_key;
	event.data.u64 = irqfd->watch.key;
	/* An eventfd that was signalled before raises its interrupt now. */
	if (epoll_ctl(irqfd->watch.epoll_fd, EPOLL_CTL_ADD, irqfd->watch.number, &event)) {
		error = -errno;
	} else {
		bucket = &listener->buckets[irqfd->watch.key % IRQFD_BUCKETS];
		irqfd->next = *bucket;
		*bucket = irqfd;
		bucket = &set[irqfd->watch.id % SET_BUCKETS];
		irqfd->next_in_set = *bucket;
		*bucket = irqfd;
		set_count++;
		listener->held_count++;
		irqfd->is_held = true;
		/* From here on the kernel may take it away. */
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
	irqfd->watch.number = open_eventfd((int)request->fd);
	if (irqfd->watch.number < 0)
		return irqfd->watch.number;
	if (request->flags & KVM_IRQFD_FLAG_RESAMPLE) {
		irqfd->resample.fd = open_eventfd((int)request->resamplefd);
		if (irqfd->resample.fd < 0)
			return irqfd->resample.fd;
	}
	return 0;
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
	    .watch = {.epoll_fd = vm->irqfds.epoll_fd, .number = -1},
	    .client_fd = (int)request->fd,
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
	if (irqfd && irqfd->vm == vm && irqfd->gsi == request->gsi) {
		unlink_one_locked(irqfd);
		/* Out of the set, as it was put in. */
		put_at_number(irqfd, fd);
		epoll_ctl(irqfd->watch.epoll_fd, EPOLL_CTL_DEL, irqfd->watch.number, NULL);
		free_irqfd(irqfd);
	}
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
		helper_join(listener->thread);
		process_lock_acquire(&irqfds_lock);
		for (uint32_t i = 0; i < IRQFD_BUCKETS; i++)
			while (listener->buckets[i])
				drop_locked(listener->buckets[i]);
		process_lock_release(&irqfds_lock);
	}
	if (listener->control_fd >= 0)
		hidden_fd_close(listener->control_fd);
	if (listener->epoll_fd >= 0)
		hidden_fd_close(listener->epoll_fd);
}
