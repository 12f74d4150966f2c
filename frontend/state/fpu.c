/* Floating-point and vector state in KVM's layouts. */
#include <errno.h>
#include <string.h>

#include "frontend/object/vcpu.h"
#include "frontend/state/cpuid.h"
#include "vcpu/exec/fpu_image.h"

long vcpu_get_fpu(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	struct kvm_fpu *fpu = call->data;

	memcpy(fpu->fpr, state->st, sizeof(fpu->fpr));
	fpu->fcw = state->fcw;
	fpu->fsw = state->fsw;
	fpu->ftwx = state->ftw;
	fpu->last_opcode = state->fop;
	fpu->last_ip = state->fip;
	fpu->last_dp = state->fdp;
	/* MXCSR has a place in the struct, and KVM leaves it zero. */
	memcpy(fpu->xmm, state->xmm, sizeof(fpu->xmm));
	return 0;
}

long vcpu_set_fpu(struct ioctl_call *call)
{
	const struct kvm_fpu *fpu = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	memcpy(state->st, fpu->fpr, sizeof(state->st));
	state->fcw = fpu->fcw;
	state->fsw = fpu->fsw;
	state->ftw = fpu->ftwx;
	state->fop = fpu->last_opcode;
	state->fip = fpu->last_ip;
	state->fdp = fpu->last_dp;
	/* Nor does KVM take MXCSR from there. */
	memcpy(state->xmm, fpu->xmm, sizeof(state->xmm));
	cpu_state_changed(vcpu->cpu);
	return 0;
}

/* What XCR0 may have set: x87 on every processor, the rest by the guest's leaf d. */
static uint64_t xcr0_allowed(const struct vcpu *vcpu)
{
	return XSTATE_X87 | (cpuid_register(vcpu, 0xd, CPUID_EAX) & cpuid_supported_xcr0());
}

long vcpu_get_xsave(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	struct xsave_image *image = call->data;

	fpu_get(state, &image->legacy);
	image->legacy.mxcsr = state->mxcsr;
	image->legacy.mxcsr_mask = MXCSR_MASK;
	memcpy(image->legacy.xmm, state->xmm, sizeof(image->legacy.xmm));
	image->header.present = xcr0_allowed(vcpu) | XSTATE_SSE;
	if (image->header.present & XSTATE_AVX)
		memcpy(image->ymm_high, state->ymm_high, sizeof(image->ymm_high));
	if (image->header.present & XSTATE_PKRU)
		memcpy((char *)call->data + fpu_pkru_offset(), &state->pkru, sizeof(state->pkru));
	return 0;
}

static bool xsave_valid(const struct xsave_image *image)
{
	static const uint64_t zero[6];
	uint64_t present = image->header.present;

	if ((present & ~cpuid_supported_xcr0()) || image->header.compaction ||
	    memcmp(image->header.reserved, zero, sizeof(zero)))
		return false;
	/* MXCSR is checked only where the header names some state. */
	return !present || !(image->legacy.mxcsr & ~MXCSR_MASK);
}

/* A component that is not present is as after a reset. MXCSR then stays what it was. */
long vcpu_set_xsave(struct ioctl_call *call)
{
	static const struct fpu_image initial = {.fcw = FCW_RESET};
	const struct xsave_image *image = call->data;
	const struct fpu_image *legacy = &image->legacy;
	uint64_t present = image->header.present;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (!xsave_valid(image))
		return -EINVAL;
	fpu_set(state, present & XSTATE_X87 ? legacy : &initial);
	if (present)
		state->mxcsr = legacy->mxcsr;
	memcpy(state->xmm, present & XSTATE_SSE ? legacy->xmm : initial.xmm, sizeof(state->xmm));
	memset(state->ymm_high, 0, sizeof(state->ymm_high));
	if (present & XSTATE_AVX)
		memcpy(state->ymm_high, image->ymm_high, sizeof(state->ymm_high));
	state->pkru = 0;
	if (present & XSTATE_PKRU)
		memcpy(&state->pkru, (const char *)call->data + fpu_pkru_offset(),
		       sizeof(state->pkru));
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_get_xcrs(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	struct kvm_xcrs *xcrs = call->data;

	xcrs->nr_xcrs = 1;
	xcrs->xcrs[0].xcr = 0;
	xcrs->xcrs[0].value = cpu_state(vcpu->cpu)->xcr0;
	return 0;
}

/* x87 is always on, and YMM registers have XMM registers as their lower halves. */
static bool xcr0_valid(const struct vcpu *vcpu, uint64_t value)
{
	if (!(value & XSTATE_X87) || (value & XSTATE_YMM) == XSTATE_AVX)
		return false;
	return !(value & ~xcr0_allowed(vcpu));
}

long vcpu_set_xcrs(struct ioctl_call *call)
{
	const struct kvm_xcrs *xcrs = call->data;
	struct vcpu *vcpu = call->object;

	if (xcrs->nr_xcrs > KVM_MAX_XCRS || xcrs->flags)
		return -EINVAL;
	for (uint32_t i = 0; i < xcrs->nr_xcrs; i++) {
		if (xcrs->xcrs[i].xcr)
			continue;
		if (!xcr0_valid(vcpu, xcrs->xcrs[i].value))
			return -EINVAL;
		cpu_state(vcpu->cpu)->xcr0 = xcrs->xcrs[i].value;
		cpu_state_changed(vcpu->cpu);
		return 0;
	}
	return 0;
}
