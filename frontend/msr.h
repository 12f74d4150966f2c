/* Model-specific registers that instructions do not use. */
#ifndef QUIRE_FRONTEND_MSR_H
#define QUIRE_FRONTEND_MSR_H

#include <stdint.h>

#include "vcpu/cpu.h"

struct ioctl_call;
struct vcpu;

#define MSR_MTRR_VARIABLE 8u

#define MISC_ENABLE_MWAIT (UINT64_C(1) << 18)

/* By the vCPU mutex. */
struct vcpu_msrs {
	uint64_t tsc_base; /* the TSC's offset without IA32_TSC_ADJUST */
	uint64_t misc_enable;
	uint64_t feature_control;
	uint64_t mtrr_default;
	uint64_t mtrr_fixed[11];
	uint64_t mtrr_variable[2 * MSR_MTRR_VARIABLE];
	uint64_t mcg_cap, mcg_status, mcg_ctl;
	uint64_t mc[32 * 4];
	uint64_t wall_clock, system_time; /* kvmclock */
	uint64_t poll_control, power_ctl;
	uint64_t ucode_revision, platform_info, arch_capabilities;
	uint64_t spec_ctrl;
	uint64_t amd_hwcr, amd_syscfg;
	uint64_t amd_vm_cr, amd_vm_hsave;
};

void msr_reset(struct vcpu *vcpu);
/* From the guest and from the client; the client may write what the guest may only read. */
enum msr_origin { MSR_FROM_GUEST, MSR_FROM_CLIENT };
/* 0, -ENOENT when there is no such MSR, -EINVAL when it does not take the value or is hidden. */
int msr_read(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value);
int msr_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value);

/* Has the guest this feature of KVM's? All, unless the client wants CPUID to be obeyed. */
int msr_pv_has(const struct vcpu *vcpu, uint32_t feature);

long system_get_msr_list(struct ioctl_call *call);
long system_get_msr_feature_list(struct ioctl_call *call);
long system_get_msrs(struct ioctl_call *call);
long vcpu_get_msrs(struct ioctl_call *call);
long vcpu_set_msrs(struct ioctl_call *call);
long system_get_mce_cap(struct ioctl_call *call);
long vcpu_setup_mce(struct ioctl_call *call);

#endif
