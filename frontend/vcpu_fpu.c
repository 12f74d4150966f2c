/* Floating-point and vector state in KVM's layouts. */
#include <errno.h>
#include <string.h>

#include "frontend/vcpu.h"

#define XSTATE_X87 UINT64_C(1)
#define XSTATE_SSE UINT64_C(2)
#define XSTATE_ALL (XSTATE_X87 | XSTATE_SSE)
#define MXCSR_MASK 0xffffu

/* The FXSAVE image that starts every XSAVE area, then XSAVE's header. */
struct xsave_area {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved0;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	uint8_t reserved1[96];
	uint64_t xstate_bv, xcomp_bv;
	uint8_t reserved2[48];
};
_Static_assert(sizeof(struct xsave_area) == 576, "an XSAVE area without extensions");

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
	memcpy(fpu->xmm, state->xmm, sizeof(fpu->xmm));
	fpu->mxcsr = state->mxcsr;
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
	memcpy(state->xmm, fpu->xmm, sizeof(state->xmm));
	/* KVM keeps MXCSR as the processor allows it. */
	state->mxcsr = fpu->mxcsr & MXCSR_MASK;
	cpu_state_changed(vcpu->cpu);
	return 0;
}

long vcpu_get_xsave(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	struct xsave_area *area = call->data;

	area->fcw = state->fcw;
	area->fsw = state->fsw;
	area->ftw = state->ftw;
	area->fop = state->fop;
	area->fip = state->fip;
	area->fdp = state->fdp;
	area->mxcsr = state->mxcsr;
	area->mxcsr_mask = MXCSR_MASK;
	memcpy(area->st, state->st, sizeof(area->st));
	memcpy(area->xmm, state->xmm, sizeof(area->xmm));
	area->xstate_bv = XSTATE_ALL;
	return 0;
}

static void set_x87(struct cpu_state *state, const struct xsave_area *area)
{
	static const struct xsave_area initial = {.fcw = 0x37f};
	const struct xsave_area *from = area->xstate_bv & XSTATE_X87 ? area : &initial;

	state->fcw = from->fcw;
	state->fsw = from->fsw;
	state->ftw = from->ftw;
	state->fop = from->fop;
	state->fip = from->fip;
	state->fdp = from->fdp;
	memcpy(state->st, from->st, sizeof(state->st));
}

long vcpu_set_xsave(struct ioctl_call *call)
{
	const struct xsave_area *area = call->data;
	struct vcpu *vcpu = call->object;
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (area->xstate_bv & ~XSTATE_ALL || area->mxcsr & ~MXCSR_MASK || area->xcomp_bv)
		return -EINVAL;
	set_x87(state, area);
	state->mxcsr = area->mxcsr;
	if (area->xstate_bv & XSTATE_SSE)
		memcpy(state->xmm, area->xmm, sizeof(state->xmm));
	else
		memset(state->xmm, 0, sizeof(state->xmm));
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

long vcpu_set_xcrs(struct ioctl_call *call)
{
	const struct kvm_xcrs *xcrs = call->data;
	struct vcpu *vcpu = call->object;

	if (xcrs->nr_xcrs > KVM_MAX_XCRS || xcrs->flags)
		return -EINVAL;
	for (uint32_t i = 0; i < xcrs->nr_xcrs; i++) {
		if (xcrs->xcrs[i].xcr)
			continue;
		if (xcrs->xcrs[i].value & ~XSTATE_ALL || !(xcrs->xcrs[i].value & XSTATE_X87))
			return -EINVAL;
		cpu_state(vcpu->cpu)->xcr0 = xcrs->xcrs[i].value;
		cpu_state_changed(vcpu->cpu);
		return 0;
	}
	return 0;
}
