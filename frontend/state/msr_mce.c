/* Machine checks: the banks' registers, and errors that the client reports to the guest. */
#include "frontend/state/msr_mce.h"

#include <errno.h>
#include <string.h>

#include "frontend/object/dispatch.h"
#include "frontend/object/vcpu.h"
#include "frontend/state/msr_index.h"
#include "vcpu/arch.h"

/* Of MCG_CAP. */
#define MCG_CTL_PRESENT (UINT64_C(1) << 8)
#define MCG_CMCI_PRESENT (UINT64_C(1) << 10)
#define MCG_SER (UINT64_C(1) << 24)
#define MCG_SUPPORTED (MCG_CTL_PRESENT | MCG_SER)
/* What a client may set besides: the number of banks, and of extended registers. */
#define MCG_COUNTS UINT64_C(0xff00ff)
#define MCG_STATUS_IN_PROGRESS (UINT64_C(1) << 2)
/* Of MCi_STATUS. */
#define STATUS_VALID (UINT64_C(1) << 63)
#define STATUS_OVERFLOW (UINT64_C(1) << 62)
#define STATUS_UNCORRECTED (UINT64_C(1) << 61)
#define STATUS_CORRUPT (UINT64_C(1) << 57)
#define STATUS_SIGNALLED (UINT64_C(1) << 56)
#define STATUS_ACTION (UINT64_C(1) << 55)
/* Bits of MCi_CTL that some guests clear by themselves. */
#define CTL_MAY_BE_CLEAR UINT64_C(0x401)
#define CTL2_VALID (UINT64_C(1) << 30 | UINT64_C(0x7fff))
#define HWCR_STATUS_WRITABLE (UINT64_C(1) << 18)

enum bank_register { BANK_CTL, BANK_STATUS, BANK_ADDR, BANK_MISC, BANK_REGISTERS };

static uint32_t bank_count(const struct vcpu_msrs *msrs)
{
	return msrs->mcg_cap & 0xff;
}

int mce_covers(uint32_t index)
{
	return (index >= MSR_MCG_CAP && index <= MSR_MCG_CTL) ||
	       (index >= MSR_MC_FIRST && index <= MSR_MC_LAST) ||
	       (index >= MSR_MC_CTL2_FIRST && index <= MSR_MC_CTL2_LAST);
}

/* The client reaches a register that MCG_CAP does not announce (@present); the guest does not. */
static int is_visible(const struct vcpu_msrs *msrs, enum msr_origin origin, uint64_t present)
{
	return origin == MSR_FROM_CLIENT || (msrs->mcg_cap & present);
}

int mce_read(const struct vcpu_msrs *msrs, enum msr_origin origin, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_MCG_CAP:
		*value = msrs->mcg_cap;
		return 0;
	case MSR_MCG_STATUS:
		*value = msrs->mcg_status;
		return 0;
	case MSR_MCG_CTL:
		*value = msrs->mcg_ctl;
		return is_visible(msrs, origin, MCG_CTL_PRESENT) ? 0 : -EINVAL;
	default:
		break;
	}
	if (index >= MSR_MC_FIRST) {
		uint32_t place = index - MSR_MC_FIRST;

		if (place / BANK_REGISTERS >= bank_count(msrs))
			return -EINVAL;
		*value = msrs->mc[place];
		return 0;
	}
	if (index - MSR_MC_CTL2_FIRST >= bank_count(msrs) ||
	    !is_visible(msrs, origin, MCG_CMCI_PRESENT))
		return -EINVAL;
	*value = msrs->mc_ctl2[index - MSR_MC_CTL2_FIRST];
	return 0;
}

static int write_bank(struct vcpu *vcpu, enum msr_origin origin, uint32_t place, uint64_t value)
{
	struct vcpu_msrs *msrs = &vcpu->msrs;

	if (place / BANK_REGISTERS >= bank_count(msrs))
		return -EINVAL;
	switch (place % BANK_REGISTERS) {
	case BANK_CTL:
		if (value && (value | CTL_MAY_BE_CLEAR) != UINT64_MAX)
			return -EINVAL;
		break;
	case BANK_STATUS:
		/* The guest clears it; on AMD's processors it may ask to do more. */
		if (value && origin == MSR_FROM_GUEST &&
		    !(msr_is_amd(vcpu) && (msrs->amd_hwcr & HWCR_STATUS_WRITABLE)))
			return -EINVAL;
		break;
	default:
		break;
	}
	msrs->mc[place] = value;
	return 0;
}

static int write_ctl2(struct vcpu_msrs *msrs, enum msr_origin origin, uint32_t bank, uint64_t value)
{
	if (bank >= bank_count(msrs) || (value & ~CTL2_VALID))
		return -EINVAL;
	if (!(msrs->mcg_cap & MCG_CMCI_PRESENT) && (value || origin == MSR_FROM_GUEST))
		return -EINVAL;
	msrs->mc_ctl2[bank] = value;
	return 0;
}

int mce_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value)
{
	struct vcpu_msrs *msrs = &vcpu->msrs;

	switch (index) {
	case MSR_MCG_CAP:
		return -ENOENT;
	case MSR_MCG_STATUS:
		msrs->mcg_status = value;
		return 0;
	case MSR_MCG_CTL:
		if (!(msrs->mcg_cap & MCG_CTL_PRESENT) && (value || origin == MSR_FROM_GUEST))
			return -EINVAL;
		if (value && value != UINT64_MAX)
			return -EINVAL;
		msrs->mcg_ctl = value;
		return 0;
	default:
		break;
	}
	if (index >= MSR_MC_FIRST)
		return write_bank(vcpu, origin, index - MSR_MC_FIRST, value);
	return write_ctl2(msrs, origin, index - MSR_MC_CTL2_FIRST, value);
}

long system_get_mce_cap(struct ioctl_call *call)
{
	uint64_t *cap = call->data;

	*cap = MCG_SUPPORTED;
	return 0;
}

long vcpu_setup_mce(struct ioctl_call *call)
{
	const uint64_t *cap = call->data;
	struct vcpu *vcpu = call->object;
	uint32_t banks = *cap & 0xff;

	if (!banks || banks > MSR_MCE_BANKS || (*cap & ~(MCG_SUPPORTED | MCG_COUNTS)))
		return -EINVAL;
	vcpu->msrs.mcg_cap = *cap;
	if (*cap & MCG_CTL_PRESENT)
		vcpu->msrs.mcg_ctl = UINT64_MAX;
	for (uint32_t i = 0; i < banks; i++)
		vcpu->msrs.mc[BANK_REGISTERS * i + BANK_CTL] = UINT64_MAX;
	return 0;
}

static void fill_bank(uint64_t *bank, const struct kvm_x86_mce *mce, uint64_t status)
{
	bank[BANK_STATUS] = status;
	bank[BANK_ADDR] = mce->addr;
	bank[BANK_MISC] = mce->misc;
}

/* Uncorrected, and no action is needed: it is noted, and no exception tells the guest. */
static int is_deferred(const struct kvm_x86_mce *mce)
{
	return !mce->mcg_status && (mce->status & STATUS_UNCORRECTED) &&
	       !(mce->status & (STATUS_CORRUPT | STATUS_SIGNALLED | STATUS_ACTION));
}

static void raise_machine_check(struct vcpu *vcpu)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	state->exception_pending = 1;
	state->exception_injected = 0;
	state->exception_vector = VECTOR_MC;
	state->exception_has_error = 0;
	state->exception_has_payload = 0;
	cpu_state_changed(vcpu->cpu);
}

static void report_uncorrected(struct vcpu *vcpu, const struct kvm_x86_mce *mce, uint64_t *bank)
{
	struct vcpu_msrs *msrs = &vcpu->msrs;
	uint64_t overflow = bank[BANK_STATUS] & STATUS_VALID ? STATUS_OVERFLOW : 0;

	/* The guest has switched these reports off. */
	if ((msrs->mcg_cap & MCG_CTL_PRESENT) && msrs->mcg_ctl != UINT64_MAX)
		return;
	if (bank[BANK_CTL] != UINT64_MAX)
		return;
	/* A second one while the first is handled, or a guest that wants none: shutdown. */
	if ((msrs->mcg_status & MCG_STATUS_IN_PROGRESS) || !(cpu_state(vcpu->cpu)->cr4 & CR4_MCE)) {
		vcpu->triple_fault = true;
		return;
	}
	fill_bank(bank, mce, mce->status | overflow);
	msrs->mcg_status = mce->mcg_status;
	raise_machine_check(vcpu);
}

long vcpu_set_mce(struct ioctl_call *call)
{
	const struct kvm_x86_mce *mce = call->data;
	struct vcpu *vcpu = call->object;
	uint64_t *bank, old;

	if (mce->bank >= bank_count(&vcpu->msrs) || !(mce->status & STATUS_VALID))
		return -EINVAL;
	bank = &vcpu->msrs.mc[BANK_REGISTERS * mce->bank];
	old = bank[BANK_STATUS];
	if (is_deferred(mce)) {
		fill_bank(bank, mce, mce->status);
		vcpu->msrs.mcg_status = mce->mcg_status;
	} else if (mce->status & STATUS_UNCORRECTED) {
		report_uncorrected(vcpu, mce, bank);
	} else if ((old & STATUS_VALID) && (old & STATUS_UNCORRECTED)) {
		/* The graver one stays. */
		bank[BANK_STATUS] |= STATUS_OVERFLOW;
	} else {
		fill_bank(bank, mce, mce->status | (old & STATUS_VALID ? STATUS_OVERFLOW : 0));
	}
	return 0;
}
