/* NX huge pages of a VM: follows the parameters, and gives huge pages back from time to time. */
#ifndef QUIRE_FRONTEND_NX_RECOVERY_H
#define QUIRE_FRONTEND_NX_RECOVERY_H

#include <stdatomic.h>
#include <stdint.h>

#include "frontend/timers.h"

struct vm;

/*
 * Begins with the VM's first KVM_RUN when the workaround is on, as a timer of the VM, and ends with
 * the VM. While it is on the timer looks at the parameters at least once a second, so that a write
 * to them by any process of the run takes effect; each KVM_RUN looks whether it was switched.
 */
struct nx_recovery {
	struct vm_timer timer;
	atomic_bool disabled; /* KVM_CAP_VM_DISABLE_NX_HUGE_PAGES */
	atomic_bool running;  /* the timer is armed, or firing */
	uint64_t last_ns;     /* of the last recovery; the timer's */
};

/* Once, when the VM is made and its timers are. */
void nx_recovery_init(struct vm *vm);
/* At each KVM_RUN: cheap while nothing was switched. */
void nx_recovery_poll(struct vm *vm);

#endif
