/* Nested virtualisation of the CPU as its surroundings see it: state to save, ways out of L2. */
#ifndef QUIRE_VCPU_SVM_NESTED_H
#define QUIRE_VCPU_SVM_NESTED_H

#include "vcpu/svm/vmcb.h"

struct cpu;

/*
 * What KVM_GET_NESTED_STATE saves beside the registers, which are L2's while @in_guest_mode.
 * @vmcb: the control area that L2 runs under, and L1's registers as its VMRUN left them.
 */
struct cpu_nested {
	uint8_t gif; /* the global interrupt flag */
	uint8_t in_guest_mode;
	uint8_t run_pending; /* L2 was entered and has not run yet */
	uint64_t vmcb_gpa;
	uint64_t pat;	  /* of L2 */
	struct vmcb vmcb; /* valid in guest mode */
};

/* All of these: while no thread is in cpu_run(). */

void cpu_nested_get(const struct cpu *cpu, struct cpu_nested *nested);
/*
 * Make @nested the state. Into guest mode the present registers become L2's; out of it L1's come
 * back. -EINVAL when the processor would refuse what the VMCB says; nothing changed.
 */
int cpu_nested_set(struct cpu *cpu, const struct cpu_nested *nested);

/*
 * Has L2 a PAT of its own under nested paging, as the processor gives it, or L1's (KVM's quirk
 * NESTED_SVM_SHARED_PAT, the default)? Not while L2 runs.
 */
void cpu_nested_separate_pat(struct cpu *cpu, int separate);
/* Where L1's PAT is. */
uint64_t *cpu_nested_l1_pat(struct cpu *cpu);

/* Is L2 running? Is the global interrupt flag set? */
int cpu_nested_active(const struct cpu *cpu);
int cpu_nested_gif(const struct cpu *cpu);
/* What L2's TSC is ahead of L1's. 0 while L1 runs. */
uint64_t cpu_nested_tsc_offset(const struct cpu *cpu);
/*
 * GIF is clear and an event of the surroundings waits for it: cpu_run() ends with CPU_EXIT_INTR as
 * soon as it is set.
 */
void cpu_nested_await_gif(struct cpu *cpu);
/* Out of guest mode with L1's registers, no #VMEXIT; GIF set. Nothing when not in it. */
void cpu_nested_leave(struct cpu *cpu);
/* RESET and INIT: as above, and no register is touched. */
void cpu_nested_forget(struct cpu *cpu);
/* A shutdown befalls the guest: nonzero when L1 intercepts it and has been entered. */
int cpu_nested_shutdown(struct cpu *cpu);
/*
 * From L2 to L1 with an intercepted #PF of error code 0, whatever L1 intercepts. Zero: L1's VMCB
 * has gone. While L2 runs.
 */
int cpu_nested_page_fault(struct cpu *cpu, uint64_t address);
/* INIT befalls the guest: nonzero when L1 intercepts it and has been entered. */
int cpu_nested_init(struct cpu *cpu);

#endif
