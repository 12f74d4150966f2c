/* Changes of the client's address space, told to every VM of the process: our MMU notifier. */
#include "frontend/object/mm_events.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#include <quire/vm.h>

#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/process.h"

/*
 * Held for reading while the VMs are told, for writing to change the list. Readers go first:
 * telling may wait for the user of a page that a userfaultfd keeps back, and what serves the
 * userfaultfd may change memory itself, while a thread waits to make a VM.
 */
static pthread_rwlock_t vms_lock = PTHREAD_RWLOCK_INITIALIZER;
static struct quire_vm **vms;
static size_t vm_count, vm_room;

/* The VMs are the parent's. Their array may be half grown: it is left alone. */
static void fork_child(void)
{
	vms = NULL;
	vm_count = vm_room = 0;
	pthread_rwlock_init(&vms_lock, NULL);
}
FORK_CHILD(FORK_VMS, vms_lock, fork_child);

int mm_events_register_vm(struct quire_vm *vm)
{
	struct quire_vm **old = NULL;
	int error = 0;

	pthread_rwlock_wrlock(&vms_lock);
	if (vm_count == vm_room) {
		size_t room = vm_room ? 2 * vm_room : 8;
		struct quire_vm **grown = process_heap_array(room, sizeof(struct quire_vm *));

		if (!grown) {
			error = -ENOMEM;
			goto unlock;
		}
		old = vms;
		for (size_t i = 0; i < vm_count; i++)
			grown[i] = old[i];
		vms = grown;
		vm_room = room;
	}
	vms[vm_count++] = vm;
unlock:
	pthread_rwlock_unlock(&vms_lock);
	process_heap_free(old);
	return error;
}

void mm_events_unregister_vm(struct quire_vm *vm)
{
	pthread_rwlock_wrlock(&vms_lock);
	for (size_t i = 0; i < vm_count; i++) {
		if (vms[i] != vm)
			continue;
		vms[i] = vms[--vm_count];
		break;
	}
	pthread_rwlock_unlock(&vms_lock);
}

void mm_changed(uintptr_t start, uintptr_t end)
{
	/* First: a fault that begins from here on asks the kernel anew. */
	process_mappings_changed();
	pthread_rwlock_rdlock(&vms_lock);
	for (size_t i = 0; i < vm_count; i++) {
		quire_vm_host_invalidate_begin(vms[i], (hva_t){start}, (hva_t){end});
		quire_vm_host_invalidate_end(vms[i], (hva_t){start}, (hva_t){end});
	}
	pthread_rwlock_unlock(&vms_lock);
}
