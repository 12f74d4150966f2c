/* Splitting a VM's huge pages in the background, ahead of a dirty log: kvm.quire_split_ahead. */
#ifndef QUIRE_FRONTEND_OBJECT_SPLIT_AHEAD_H
#define QUIRE_FRONTEND_OBJECT_SPLIT_AHEAD_H

#include <stdatomic.h>
#include <stdint.h>

#include "frontend/object/timers.h"

struct vm;

/*
 * A thread of its own goes through the slots of all address spaces, one step of quire_vm_split() a
 * turn, and again a second later, for what the guest has mapped meanwhile. On the thread of the
 * VM's devices a step would hold their timers up, for as long as slots_lock is held, too. A write
 * to the parameter, by any process of the run, begins and ends it before it returns; one that was
 * not seen (stdio's own) is noticed at each KVM_RUN.
 */
struct split_ahead {
	struct vm_timers timers; /* its thread: there once the parameter was set */
	struct vm_timer timer;
	atomic_bool running; /* what the parameter was seen to say */
	uint32_t as_id;	     /* the next step; that thread only */
	uint64_t gpa;
};

/* Once, when the VM is made. split_ahead_poll() follows. */
void split_ahead_init(struct vm *vm);
/* Ends the thread, before the VM's memory goes. */
void split_ahead_destroy(struct vm *vm);
/* At its birth and at each KVM_RUN: cheap while the parameter stays. */
void split_ahead_poll(struct vm *vm);
/* The parameter was written: does what it says. */
void split_ahead_apply(struct vm *vm);

#endif
