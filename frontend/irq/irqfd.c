/*
 * Eventfds that raise a guest's interrupt.
 *
 * One thread waits for all eventfds of the process and raises the GSI of each that was signalled.
 * The set is the process's, as an eventfd raises one interrupt of one VM only, and so is the
 * thread: a VM costs no descriptor.
 *
 * KVM drops an eventfd that the client closes, so this must not keep it open: it is in an
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
 * Locks, outer to inner: irqfds_lock, keys_lock, irqchip.lock. An irqfd leaves under the two first,
 * so that one that was deassigned raises nothing any more.
 */
#include "frontend/irq/irqfd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
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

/* A duplicate that was not needed for so long is given up. */
#define HELD_MS 1000

struct irqfd {
	struct irqfd *next;	   /* in its bucket, by key */
	struct irqfd *next_in_set; /* in its bucket of the set, by id */
	struct vm *vm; /* NULL: it has ended, and the eventfd is still in the epoll set */
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
#define KEY_BUCKETS 1024u

/* Guards the set. The listener is started before it is taken. */
static struct process_lock irqfds_lock;
static struct irqfd *set[SET_BUCKETS];	/* by id */
static uint32_t set_count, set_checked; /* of the last look for closed ones: how many stayed */
static uint64_t last_key;
static struct helper_once listener;
/* -1: none yet. Made with the first VM, for a call that makes no descriptor takes no number. [A] */
static int epoll_fd = -1;

/* The buckets change under both locks, so that either is enough to walk them. */
static struct process_lock keys_lock;
static struct irqfd *by_key[KEY_BUCKETS];
static uint32_t held_count; /* whose duplicates are open */

/* The irqfds are the parent's, and so are the eventfds and the epoll set that watches them. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&irqfds_lock);
	memset(set, 0, sizeof(set));
	set_count = set_checked = 0;
	helper_once_forget(&listener);
	if (epoll_fd >= 0)
		hidden_fd_close(epoll_fd);
	epoll_fd = -1;
}
FORK_CHILD(FORK_IRQFDS, irqfds_lock, fork_child);

static void fork_child_keys(void)
{
	(void)process_lock_start_anew(&keys_lock);
	memset(by_key, 0, sizeof(by_key));
	held_count = 0;
}
FORK_CHILD(FORK_KEYS, keys_lock, fork_child_keys);

int irqfds_prepare(void)
{
	int result;

	process_lock_acquire(&irqfds_lock);
	if (epoll_fd < 0)
		__atomic_store_n(&epoll_fd, hidden_fd_hide(epoll_create1(EPOLL_CLOEXEC)),
				 __ATOMIC_RELEASE);
	result = epoll_fd < 0 ? epoll_fd : 0;
	process_lock_release(&irqfds_lock);
	return result;
}

/* Put what is open at @fd, or a placeholder, where the set has the eventfd. */
static void put_at_number(const struct irqfd *irqfd, int fd)
{
	int number = irqfd->watch.number;

	sys_call(SYS_dup3, (uint64_t)fd, (uint64_t)number, O_CLOEXEC);
}

static void put_placeholder(const struct irqfd *irqfd)
{
	put_at_number(irqfd, epoll_fd);
}

/* Take the count. The description is the client's too, which may have emptied it: never wait. */
static void take_count(int fd)
{
	uint64_t count;
	struct iovec place = {.iov_base = &count, .iov_len = sizeof(count)};

	sys_call(SYS_preadv2, (uint64_t)fd, sys_address(&place), 1, UINT64_MAX, 0, RWF_NOWAIT);
}

/* Hold a duplicate of the eventfd, if the client's number still is one. */
static void hold(struct irqfd *irqfd)
{
	int number = irqfd->watch.number;

	if (irqfd->is_held || irqfd->is_strange)
		return;
	/* What is compared is ours: the client may give its number away at any moment. */
	put_at_number(irqfd, irqfd->client_fd);
	if (eventfd_matches(epoll_fd, &irqfd->watch, number)) {
		irqfd->is_held = true;
		held_count++;
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
	held_count--;
}

static struct irqfd *find_key(uint64_t key)
{
	struct irqfd *irqfd = by_key[key % KEY_BUCKETS];

	while (irqfd && irqfd->watch.key != key)
		irqfd = irqfd->next;
	return irqfd;
}

static void raise_interrupt(uint64_t key)
{
	struct irqfd *irqfd;

	process_lock_acquire(&keys_lock);
	irqfd = find_key(key);
	if (irqfd && irqfd->vm) {
		hold(irqfd);
		irqfd->is_used = true;
		if (irqfd->is_held)
			take_count(irqfd->watch.number);
		if (irqfd->resamples)
			irqchip_drive(irqfd->vm, irqfd->gsi, IRQ_SOURCE_RESAMPLE, true);
		else
			irqchip_pulse(irqfd->vm, irqfd->gsi);
	}
	process_lock_release(&keys_lock);
}

/* Close duplicates that were not used since the last time. */
static void sweep(void)
{
	process_lock_acquire(&keys_lock);
	for (uint32_t i = 0; held_count && i < KEY_BUCKETS; i++) {
		for (struct irqfd *irqfd = by_key[i]; irqfd; irqfd = irqfd->next) {
			if (!irqfd->is_used)
				let_go(irqfd);
			irqfd->is_used = false;
		}
	}
	process_lock_release(&keys_lock);
}

static bool holds_any(void)
{
	bool holds;

	process_lock_acquire(&keys_lock);
	holds = held_count != 0;
	process_lock_release(&keys_lock);
	return holds;
}

/* Until the process ends. */
static void *listen_thread(void *unused)
{
	uint64_t sweep_ns = 0;
	struct epoll_event event;

	(void)unused;
	client_call_begin();
	for (;;) {
		int fd = __atomic_load_n(&epoll_fd, __ATOMIC_ACQUIRE);
		int wait_ms = holds_any() ? HELD_MS : -1;
		/* At the gate: a filter of the client's may be every thread's. */
		long count = sys_call(SYS_epoll_wait, (uint64_t)fd, sys_address(&event), 1,
				      (uint64_t)wait_ms);
		uint64_t now_ns = timers_now_ns();

		if (count < 0 && count != -EINTR)
			break;
		if (count > 0)
			raise_interrupt(event.data.u64);
		if (now_ns - sweep_ns > HELD_MS * UINT64_C(1000000)) {
			sweep();
			sweep_ns = now_ns;
		}
	}
	client_call_end();
	return NULL;
}

/* Both locks held: out of both tables. */
static void unlink_locked(struct irqfd *irqfd)
{
	struct irqfd **link = &set[irqfd->watch.id % SET_BUCKETS];

	while (*link != irqfd)
		link = &(*link)->next_in_set;
	*link = irqfd->next_in_set;
	set_count--;
	link = &by_key[irqfd->watch.key % KEY_BUCKETS];
	while (*link != irqfd)
		link = &(*link)->next;
	*link = irqfd->next;
	let_go(irqfd);
}

static void end_resampling(struct irqfd *irqfd)
{
	if (irqfd->resamples)
		resample_remove(irqfd->vm, &irqfd->resample);
	irqfd->resamples = false;
	if (irqfd->resample.fd >= 0)
		hidden_fd_close(irqfd->resample.fd);
	irqfd->resample.fd = -1;
}

/* After unlink_locked(), or of one that never was in the tables. */
static void free_irqfd(struct irqfd *irqfd)
{
	end_resampling(irqfd);
	if (irqfd->watch.number >= 0)
		hidden_fd_close(irqfd->watch.number);
	process_heap_free(irqfd);
}

static void unlink_one_locked(struct irqfd *irqfd)
{
	process_lock_acquire(&keys_lock);
	unlink_locked(irqfd);
	process_lock_release(&keys_lock);
}

static void drop_locked(struct irqfd *irqfd)
{
	unlink_one_locked(irqfd);
	free_irqfd(irqfd);
}

static void see(uint64_t key, void *unused)
{
	struct irqfd *irqfd = find_key(key);

	(void)unused;
	if (irqfd)
		irqfd->is_seen = true;
}

/* Those that the kernel has taken out of its set. */
static void drop_gone_locked(void)
{
	for (uint32_t i = 0; i < KEY_BUCKETS; i++)
		for (struct irqfd *irqfd = by_key[i]; irqfd; irqfd = irqfd->next)
			irqfd->is_seen = false;
	if (eventfd_live(epoll_fd, see, NULL))
		return;
	for (uint32_t i = 0; i < KEY_BUCKETS; i++) {
		struct irqfd *next, *irqfd = by_key[i];

		for (; irqfd; irqfd = next) {
			next = irqfd->next;
			if (!irqfd->is_seen)
				drop_locked(irqfd);
		}
	}
}

/* Drop what the client has closed, each time as many were added as stayed the last time. */
static void drop_closed_locked(void)
{
	if (set_count < 2 * set_checked + 8)
		return;
	drop_gone_locked();
	set_checked = set_count;
}

/* The irqfd of the eventfd @fd, whose number is @id, NULL when it has none. */
static struct irqfd *find_locked(int fd, uint64_t id)
{
	struct irqfd *irqfd = set[id % SET_BUCKETS];

	for (; irqfd; irqfd = irqfd->next_in_set) {
		if (irqfd->watch.id != id || (!id && !eventfd_matches(epoll_fd, &irqfd->watch, fd)))
			continue;
		if (!eventfd_is_gone(epoll_fd, &irqfd->watch))
			return irqfd;
		/* The number is free again, and another eventfd has it now. */
		drop_locked(irqfd);
		return NULL;
	}
	return NULL;
}

/* Have the kernel watch it, under a key of its own. 0 or -errno. */
static int watch_key(struct irqfd *irqfd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};

	irqfd->watch.key = ++last_key;
	event.data.u64 = irqfd->watch.key;
	/* An eventfd that was signalled before raises its interrupt now. */
	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, irqfd->watch.number, &event) ? -errno : 0;
}

/* Out of all tables: from the kernel's as it was put in, at its number. @fd is the same eventfd. */
static void remove_locked(struct irqfd *irqfd, int fd)
{
	unlink_one_locked(irqfd);
	put_at_number(irqfd, fd);
	epoll_ctl(epoll_fd, EPOLL_CTL_DEL, irqfd->watch.number, NULL);
	free_irqfd(irqfd);
}

/* Into both tables, and seen by the listener from here on. */
static int insert_locked(struct irqfd *irqfd)
{
	struct irqfd **bucket, *before;
	int error;

	drop_closed_locked();
	before = find_locked(irqfd->watch.number, irqfd->watch.id);
	if (before && before->vm)
		return -EBUSY;
	if (before)
		remove_locked(before, irqfd->watch.number);
	process_lock_acquire(&keys_lock);
	error = watch_key(irqfd);
	if (!error) {
		bucket = &by_key[irqfd->watch.key % KEY_BUCKETS];
		irqfd->next = *bucket;
		*bucket = irqfd;
		bucket = &set[irqfd->watch.id % SET_BUCKETS];
		irqfd->next_in_set = *bucket;
		*bucket = irqfd;
		set_count++;
		held_count++;
		irqfd->is_held = true;
		/* From here on the kernel may take it away. */
		let_go(irqfd);
	}
	process_lock_release(&keys_lock);
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
	/* By a thread, as the text is read: before any lock. */
	irqfd->watch.id = eventfd_id(irqfd->watch.number);
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
	    .watch = {.number = -1},
	    .client_fd = (int)request->fd,
	};
	result = prepare(irqfd, request);
	if (!result && resamples) {
		irqfd->resamples = true;
		resample_add(vm, &irqfd->resample);
	}
	if (!result)
		result = helper_start_once(&listener, NULL, listen_thread, NULL);
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
	uint64_t id;

	if (fd < 0)
		return fd;
	id = eventfd_id(fd);
	process_lock_acquire(&irqfds_lock);
	irqfd = find_locked(fd, id);
	if (irqfd && irqfd->vm == vm && irqfd->gsi == request->gsi)
		remove_locked(irqfd, fd);
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

/*
 * The VM ends. Where the client's number does not lead to the eventfd any more, it stays in the
 * epoll set, and its number with it, until the client closes it or assigns it anew.
 */
static void orphan_locked(struct irqfd *irqfd)
{
	bool is_held;

	end_resampling(irqfd);
	process_lock_acquire(&keys_lock);
	hold(irqfd);
	is_held = irqfd->is_held;
	if (is_held)
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, irqfd->watch.number, NULL);
	irqfd->vm = NULL;
	process_lock_release(&keys_lock);
	if (is_held)
		drop_locked(irqfd);
}

void irqfds_destroy(struct vm *vm)
{
	process_lock_acquire(&irqfds_lock);
	for (uint32_t i = 0; set_count && i < SET_BUCKETS; i++) {
		struct irqfd *next, *irqfd = set[i];

		for (; irqfd; irqfd = next) {
			next = irqfd->next_in_set;
			if (irqfd->vm == vm)
				orphan_locked(irqfd);
		}
	}
	process_lock_release(&irqfds_lock);
}
