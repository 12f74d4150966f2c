/* Changes of the client's address space, told to every VM of the process: our MMU notifier. */
#ifndef QUIRE_FRONTEND_OBJECT_MM_EVENTS_H
#define QUIRE_FRONTEND_OBJECT_MM_EVENTS_H

#include <stdint.h>

struct quire_vm;

/*
 * From register to unregister @vm is told of every change; it must live that long. 0, or -ENOMEM. A
 * forked child starts with no VM registered.
 */
int mm_events_register_vm(struct quire_vm *vm);
void mm_events_unregister_vm(struct quire_vm *vm);

/*
 * [start, end) has changed what it means, or may have, and the system call that did it is over:
 * when this returns, no vCPU goes on with what it knew of the range. Called after the change only.
 * A page frame is an address here, so an access during the call sees what a thread of the client
 * would see at that moment: the old memory, the new, or none. Nothing is held or open over the
 * call itself, which may wait for a userfaultfd reader that does anything.
 *
 * Inside a client call, with no lock held.
 */
void mm_changed(uintptr_t start, uintptr_t end);
/* The same of memory that failed: pages of a guest_memfd there are lost to the guest as well. */
void mm_lost(uintptr_t start, uintptr_t end);

#endif
