/* Model-specific registers that instructions do not use. */
#ifndef QUIRE_FRONTEND_STATE_MSR_H
#define QUIRE_FRONTEND_STATE_MSR_H

#include <stdint.h>

#include "frontend/state/msr_filter.h"
#include "vcpu/cpu.h"

struct vcpu;

#define MSR_MTRR_VARIABLE 8u
#define MSR_MCE_BANKS 32u

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
	uint64_t mc[MSR_MCE_BANKS * 4]; /* CTL, STATUS, ADDR and MISC of each bank */
	uint64_t mc_ctl2[MSR_MCE_BANKS];
	uint64_t wall_clock, system_time; /* kvmclock */
	uint64_t poll_control, power_ctl;
	uint64_t ucode_revision, platform_info, arch_capabilities;
	uint64_t features_enables;
	uint64_t amd_hwcr, amd_de_cfg, amd_virt_spec_ctrl;
	uint64_t amd_vm_cr;
};

void msr_reset(struct vcpu *vcpu);
/* From the guest and from the client; the client may write what the guest may only read. */
enum msr_origin { MSR_FROM_GUEST, MSR_FROM_CLIENT };
/*
 * 0, -ENOENT when there is no such MSR, -EINVAL when it does not take the value or is hidden. A
 * read that fails gives 0.
 */
int msr_read(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value);
int msr_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value);

/*
 * An access ended with @error; of a read @value is what came. Of one to an MSR that is not there
 * the parameters and the list of MSRs to save have the last word: 0 or @error.
 */
int msr_settle_unknown(enum msr_origin origin, enum msr_access access, uint32_t index,
		       uint64_t value, int error);

/* Has the guest this feature of KVM's? All, unless the client wants CPUID to be obeyed. */
int msr_pv_has(const struct vcpu *vcpu, uint32_t feature);
/* Is the processor that the guest sees AMD's, or one of its kin? */
int msr_is_amd(const struct vcpu *vcpu);

#endif
