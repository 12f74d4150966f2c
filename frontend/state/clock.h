/* Time: the host's TSC frequency, kvmclock, and the guest's clock page. */
#ifndef QUIRE_FRONTEND_STATE_CLOCK_H
#define QUIRE_FRONTEND_STATE_CLOCK_H

#include <stdint.h>

struct ioctl_call;
struct vcpu;
struct vm;

/* The frequency of this machine's TSC; measured once per process. */
uint32_t clock_tsc_khz(void);
uint64_t clock_tsc(void);
/* Guest TSC ticks to nanoseconds, rounded down. */
uint64_t clock_ticks_to_ns(uint64_t ticks);
/* kvmclock of @vm, now. */
uint64_t clock_now_ns(const struct vm *vm);
/* Write the guest's clock page, if it enabled one. Out of cpu_run()'s guest mode, no lock. */
/* MSR_KVM_SYSTEM_TIME: where the page is, bit 0 on. */
void clock_set_page(struct vcpu *vcpu, uint64_t value);
void clock_update_page(struct vcpu *vcpu);
/* The wall clock structure at @gpa (MSR_KVM_WALL_CLOCK). */
void clock_write_wall(struct vcpu *vcpu, uint64_t gpa);

/* The frequency of a new vCPU's TSC. */
void clock_init_vcpu(struct vcpu *vcpu);
long vcpu_get_tsc_khz(struct ioctl_call *call);
long vcpu_set_tsc_khz(struct ioctl_call *call);
long vcpu_kvmclock_ctrl(struct ioctl_call *call);
/* KVM_*_DEVICE_ATTR of a vCPU: the offset of its TSC is the only one. */
long vcpu_has_attr(struct ioctl_call *call);
long vcpu_get_attr(struct ioctl_call *call);
long vcpu_set_attr(struct ioctl_call *call);

#endif
