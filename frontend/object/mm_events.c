/* Changes of the client's address space, told to every VM of the process: our MMU notifier. */
#include "frontend/object/mm_events.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include <quire/gmem.h>
#include <quire/vm.h>

#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "hosts/process/process.h"

/*
 * Telling may wait for the user of a page that a userfaultfd keeps back, and what serves the
 * userfaultfd may make or end VMs, or change memory itself. So the lock is held between two VMs
 * only; a VM that ends waits for those that tell it, and for no others.
 */
struct listener {
	struct quire_vm *vm;
	struct listener *next; /* it stays in the list while @tellers is not 0 */
	uint32_t tellers;
	bool leaves;
};

/* Guards the list and its entries. */
static struct process_lock vms_lock;
static struct listener *listeners;
static struct process_event told_event;

/* The VMs are the parent's. */
static void fork_child(void)
{
	(void)process_lock_start_anew(&vms_lock);
	listeners = NULL;
}
FORK_CHILD(FORK_VMS, vms_lock, fork_child);

int mm_events_register_vm(struct quire_vm *vm)
{
	struct listener *listener = process_heap_alloc(sizeof(*listener));

	if (!listener)
		return -ENOMEM;
	listener->vm = vm;
	process_lock_acquire(&vms_lock);
	listener->next = listeners;
	listeners = listener;
	process_lock_release(&vms_lock);
	return 0;
}

static struct listener **find_locked(const struct quire_vm *vm)
{
	struct listener **link = &listeners;

	while (*link && (*link)->vm != vm)
		link = &(*link)->next;
	return link;
}

void mm_events_unregister_vm(struct quire_vm *vm)
{
	struct listener *listener, **link;

	process_lock_acquire(&vms_lock);
	listener = *find_locked(vm);
	if (listener)
		listener->leaves = true;
	while (listener && listener->tellers) {
		uint32_t seen = process_event_count(&told_event);

		process_lock_release(&vms_lock);
		process_event_wait(&told_event, seen, PROCESS_EVENT_FOREVER);
		process_lock_acquire(&vms_lock);
	}
	link = find_locked(vm);
	if (listener)
		*link = listener->next;
	process_lock_release(&vms_lock);
	process_heap_free(listener);
}

static void tell_changed(struct quire_vm *vm, uintptr_t start, uintptr_t end)
{
	quire_vm_host_invalidate_begin(vm, (hva_t){start}, (hva_t){end});
	quire_vm_host_invalidate_end(vm, (hva_t){start}, (hva_t){end});
}

static void tell_lost(struct quire_vm *vm, uintptr_t start, uintptr_t end)
{
	tell_changed(vm, start, end);
	for (uintptr_t page = start; page < end; page += QUIRE_PAGE_SIZE)
		(void)quire_vm_lose_frame(vm, (pfn_t){page >> QUIRE_PAGE_SHIFT});
}

static void tell_all(uintptr_t start, uintptr_t end,
		     void (*tell)(struct quire_vm *vm, uintptr_t start, uintptr_t end))
{
	process_lock_acquire(&vms_lock);
	for (struct listener *listener = listeners; listener; listener = listener->next) {
		if (listener->leaves)
			continue;
		listener->tellers++;
		process_lock_release(&vms_lock);
		tell(listener->vm, start, end);
		process_lock_acquire(&vms_lock);
		if (!--listener->tellers && listener->leaves)
			process_event_happen(&told_event);
	}
	process_lock_release(&vms_lock);
}

void mm_changed(uintptr_t start, uintptr_t end)
{
	/* First: a fault that begins from here on asks the kernel anew. */
	process_mappings_changed();
	tell_all(start, end, tell_changed);
}

void mm_lost(uintptr_t start, uintptr_t end)
{
	tell_all(start, end, tell_lost);
}
