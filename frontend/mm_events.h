/* Changes of the client's address space, told to every VM of the process: our MMU notifier. */
#ifndef QUIRE_FRONTEND_MM_EVENTS_H
#define QUIRE_FRONTEND_MM_EVENTS_H

#include <stdint.h>

struct quire_vm;

/*
 * From register to unregister @vm is told of every change; it must live that long. Waits for
 * changes in flight to end, so neither may be called between mm_change_begin() and _end().
 * 0, or -ENOMEM. A forked child starts with no VM registered.
 */
int mm_events_register_vm(struct quire_vm *vm);
void mm_events_unregister_vm(struct quire_vm *vm);

/*
 * [start, end) is about to change what it means; begin returns when no vCPU can reach the old
 * memory through it. End, by the same thread with the same range, once the change is made (or
 * failed). Pairs nest. Inside a client call, with no lock held.
 */
void mm_change_begin(uintptr_t start, uintptr_t end);
void mm_change_end(uintptr_t start, uintptr_t end);

#endif
