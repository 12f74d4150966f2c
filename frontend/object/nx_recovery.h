/* NX huge pages of a VM: follows the parameters, and gives huge pages back from time to time. */
#ifndef QUIRE_FRONTEND_OBJECT_NX_RECOVERY_H
#define QUIRE_FRONTEND_OBJECT_NX_RECOVERY_H

#include <stdatomic.h>
#include <stdint.h>

#include "frontend/object/timers.h"
#include "hosts/process/lock.h"

struct vm;

/*
 * From the VM's first KVM_RUN on a write to the parameters, by any process of the run, takes effect
 * before it returns: the workaround is switched, and the timer set to when a recovery is due. A
 * write that was not seen is noticed within a second while the workaround is on, and at each
 * KVM_RUN.
 */
struct nx_recovery {
	struct vm_timer timer;
	atomic_bool disabled; /* KVM_CAP_VM_DISABLE_NX_HUGE_PAGES */
	atomic_bool has_run;
	atomic_bool running;	  /* the workaround is on, and time counts */
	struct process_lock lock; /* last_ns, and what the timer is armed with */
	uint64_t last_ns;	  /* of the last recovery */
	struct vm *next, **link;  /* of this process, under nx_vms_lock */
};

/* Once, when the VM is made and its timers are. nx_recovery_prepare() before it: -ENOMEM where the
 * parameters want the workaround, and its thread cannot be. */
int nx_recovery_prepare(struct vm *vm);
void nx_recovery_init(struct vm *vm);
/* Its last reference has gone. */
void nx_recovery_forget(struct vm *vm);
/* At each KVM_RUN: cheap while nothing was switched. */
void nx_recovery_poll(struct vm *vm);
/* A parameter was written: does what it says. May wait for the VM's vCPUs. */
void nx_recovery_apply(struct vm *vm);

#endif
