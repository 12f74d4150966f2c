/* Splitting a VM's huge pages in the background, ahead of a dirty log: kvm.quire_split_ahead. */
#ifndef QUIRE_FRONTEND_OBJECT_SPLIT_AHEAD_H
#define QUIRE_FRONTEND_OBJECT_SPLIT_AHEAD_H

#include <stdatomic.h>
#include <stdint.h>

#include "frontend/object/timers.h"

struct vm;

/*
 * The VM's timer thread goes through the slots of all address spaces, one step of quire_vm_split()
 * a turn, so that the VM's other timers wait for no more than that; and again a second later, for
 * what the guest has mapped meanwhile. A write to the parameter, by any process of the run, begins
 * and ends it before it returns; one that was not seen (stdio's own) is noticed at each KVM_RUN.
 */
struct split_ahead {
	struct vm_timer timer;
	atomic_bool running; /* what the parameter was seen to say */
	uint32_t as_id;	     /* the next step; timer thread only */
	uint64_t gpa;
};

/* Once, when the VM is made and its timers are. split_ahead_poll() follows. */
void split_ahead_init(struct vm *vm);
/* At its birth and at each KVM_RUN: cheap while the parameter stays. */
void split_ahead_poll(struct vm *vm);
/* The parameter was written: does what it says. */
void split_ahead_apply(struct vm *vm);

#endif
