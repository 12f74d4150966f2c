/* The 8254 interval timer and the speaker's port beside it. */
#ifndef QUIRE_FRONTEND_IRQ_PIT_H
#define QUIRE_FRONTEND_IRQ_PIT_H

#include <stdbool.h>
#include <stdint.h>

#include "frontend/object/timers.h"
#include "frontend/uapi.h"
#include "vcpu/cpu.h"

struct ioctl_call;
struct vm;

/* The line that channel 0 drives. */
#define PIT_GSI 0u

/*
 * All under irqchip.lock. Channel 0 raises interrupts; 1 and 2 only count. Where its line is masked
 * everywhere, the timer sleeps: ticks are counted by the clock when a reader wants to know.
 */
struct pit {
	bool present;
	bool has_speaker;
	struct kvm_pit_state2 state;
	uint64_t loaded_ns[3]; /* when a channel began to count */
	/* Channel 0. */
	struct vm_timer timer;
	uint64_t period_ns; /* 0: never loaded */
	uint64_t due_ns;    /* of the next tick */
	bool counting, periodic, asleep;
	/* A tick is held back until the last one is served. */
	bool reinject, acked;
	bool latched; /* the line has seen a tick since its masks last changed */
	uint32_t pending;
};

/* All that follow with irqchip.lock held. */
/* A port; false when it is none of the PIT's. */
bool pit_pio_locked(struct vm *vm, struct cpu_io *io);
/* The guest has served the line. */
void pit_acked_locked(struct vm *vm);
/* A chip masks the line or shows it. */
void pit_mask_changed_locked(struct vm *vm, bool masked);
/* A client of the line may read it again. */
void pit_wake_locked(struct vm *vm);

long vm_create_pit(struct ioctl_call *call);
long vm_create_pit2(struct ioctl_call *call);
long vm_get_pit(struct ioctl_call *call);
long vm_set_pit(struct ioctl_call *call);
long vm_get_pit2(struct ioctl_call *call);
long vm_set_pit2(struct ioctl_call *call);
long vm_reinject_control(struct ioctl_call *call);

#endif
