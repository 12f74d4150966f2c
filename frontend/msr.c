/* Model-specific registers: one table of the plain ones, a function for those with behaviour. */
#include "frontend/msr.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "frontend/clock.h"
#include "frontend/cpuid.h"
#include "frontend/user_copy.h"
#include "frontend/vcpu.h"
#include "frontend/vm.h"
#include "vcpu/arch.h"
#include "vcpu/nested.h"

/* Those that the CPU leaves to us. */
enum msr_index {
	MSR_PLATFORM_ID = 0x17,
	MSR_APIC_BASE = 0x1b,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_UCODE_WRITE = 0x79,
	MSR_UCODE_REVISION = 0x8b,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRR_CAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MCG_CTL = 0x17b,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_POWER_CTL = 0x1fc,	   /* storage: nothing saves power here */
	MSR_DEBUG_CONTROL = 0x1d9, /* no branch records: nothing can be switched on */
	MSR_MTRR_VARIABLE_FIRST = 0x200,
	MSR_MTRR_VARIABLE_LAST = MSR_MTRR_VARIABLE_FIRST + 2 * MSR_MTRR_VARIABLE - 1,
	MSR_MTRR_FIX64K = 0x250,
	MSR_MTRR_FIX16K = 0x258,
	MSR_MTRR_FIX4K = 0x268,
	MSR_MTRR_DEFAULT = 0x2ff,
	MSR_MC_FIRST = 0x400,
	MSR_MC_LAST = MSR_MC_FIRST + 32 * 4 - 1,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC_FIRST = 0x800,
	MSR_X2APIC_LAST = 0x8ff,
	MSR_KVM_WALL_CLOCK_OLD = 0x11,
	MSR_KVM_SYSTEM_TIME_OLD = 0x12,
	MSR_KVM_WALL_CLOCK = 0x4b564d00,
	MSR_KVM_SYSTEM_TIME = 0x4b564d01,
	MSR_KVM_STEAL_TIME = 0x4b564d03,
	MSR_KVM_POLL_CONTROL = 0x4b564d05,
};
#define MSR_AMD_SYSCFG 0xc0010010u
#define MSR_AMD_HWCR 0xc0010015u
#define MSR_AMD_VM_CR 0xc0010114u
#define MSR_AMD_VM_HSAVE_PA 0xc0010117u

#define EFER_VALID (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)
/* Leaf 0, EBX: the first letters of AuthenticAMD and HygonGenuine. */
#define VENDOR_AMD 0x68747541u
#define VENDOR_HYGON 0x6f677948u
#define CPUID_RDTSCP (UINT32_C(1) << 27) /* leaf 80000001, EDX */
#define CPUID_RDPID (UINT32_C(1) << 22)	 /* leaf 7, ECX */

#define MCG_CTL_PRESENT (UINT64_C(1) << 8)
#define MCG_SER (UINT64_C(1) << 24)
#define MCG_SUPPORTED (MCG_CTL_PRESENT | MCG_SER)
#define MCE_BANKS 32u
/* No branch trace storage, no event sampling: the guest may not change these; it writes "EMON"
 * in vain. */
#define MISC_ENABLE_DEFAULT UINT64_C(0x1800)
#define MISC_ENABLE_READ_ONLY UINT64_C(0x1800)
#define MISC_ENABLE_EMON UINT64_C(0x80)
#define CPUID_SSE3 (UINT32_C(1) << 0) /* leaf 1, ECX */
#define HWCR_IGNORED UINT64_C(0x148)
#define HWCR_VALID (UINT64_C(1) << 18 | UINT64_C(1) << 24)
#define PLATFORM_INFO_FAULTING (UINT64_C(1) << 31)

/* MSRs that are storage: index, where, what the guest may set (the client may set anything). */
struct msr_plain {
	uint32_t index;
	bool in_cpu; /* in struct cpu_state, else in struct vcpu_msrs */
	size_t offset;
	uint64_t writable;
	bool canonical; /* holds an address */
};
#define IN_CPU(field) true, offsetof(struct cpu_state, field)
#define IN_VCPU(field) false, offsetof(struct vcpu_msrs, field)

static const struct msr_plain plain_msrs[] = {
    {MSR_STAR, IN_CPU(star), UINT64_MAX, false},
    {MSR_LSTAR, IN_CPU(lstar), UINT64_MAX, true},
    {MSR_CSTAR, IN_CPU(cstar), UINT64_MAX, true},
    {MSR_SFMASK, IN_CPU(sfmask), UINT32_MAX, false},
    {MSR_FS_BASE, IN_CPU(seg[CPU_FS].base), UINT64_MAX, true},
    {MSR_GS_BASE, IN_CPU(seg[CPU_GS].base), UINT64_MAX, true},
    {MSR_KERNEL_GS_BASE, IN_CPU(kernel_gs_base), UINT64_MAX, true},
    {MSR_TSC_AUX, IN_CPU(tsc_aux), UINT32_MAX, false},
    {MSR_SYSENTER_CS, IN_CPU(sysenter_cs), UINT32_MAX, false},
    {MSR_SYSENTER_ESP, IN_CPU(sysenter_esp), UINT64_MAX, true},
    {MSR_SYSENTER_EIP, IN_CPU(sysenter_eip), UINT64_MAX, true},
    {MSR_FEATURE_CONTROL, IN_VCPU(feature_control), 0, false},
    {MSR_MTRR_DEFAULT, IN_VCPU(mtrr_default), 0xcff, false},
    {MSR_MCG_CAP, IN_VCPU(mcg_cap), 0, false},
    {MSR_MCG_STATUS, IN_VCPU(mcg_status), 7, false},
    {MSR_KVM_POLL_CONTROL, IN_VCPU(poll_control), 1, false},
    {MSR_UCODE_REVISION, IN_VCPU(ucode_revision), 0, false},
    {MSR_PLATFORM_INFO, IN_VCPU(platform_info), 0, false},
    {MSR_POWER_CTL, IN_VCPU(power_ctl), UINT64_MAX, false},
    {MSR_AMD_SYSCFG, IN_VCPU(amd_syscfg), UINT64_MAX, false},
    {MSR_AMD_VM_CR, IN_VCPU(amd_vm_cr), 0x1f, false},
    {MSR_AMD_VM_HSAVE_PA, IN_VCPU(amd_vm_hsave), UINT64_C(0xfffffffff000), false},
};

/* What KVM_GET_MSR_INDEX_LIST names: all that a client must save. */
static const uint32_t saved_msrs[] = {
    MSR_SYSENTER_CS,
    MSR_SYSENTER_ESP,
    MSR_SYSENTER_EIP,
    MSR_STAR,
    MSR_CSTAR,
    MSR_KERNEL_GS_BASE,
    MSR_SFMASK,
    MSR_LSTAR,
    MSR_TSC,
    MSR_PAT,
    MSR_FEATURE_CONTROL,
    MSR_TSC_AUX,
    MSR_TSC_ADJUST,
    MSR_KVM_WALL_CLOCK_OLD,
    MSR_KVM_SYSTEM_TIME_OLD,
    MSR_KVM_WALL_CLOCK,
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_STEAL_TIME,
    MSR_KVM_POLL_CONTROL,
    MSR_TSC_DEADLINE,
    MSR_MISC_ENABLE,
    MSR_MCG_STATUS,
    MSR_MCG_CTL,
    MSR_PLATFORM_INFO,
    MSR_POWER_CTL,
    MSR_UCODE_REVISION,
    MSR_AMD_VM_HSAVE_PA,
};
#define SAVED_COUNT (sizeof(saved_msrs) / sizeof(saved_msrs[0]))

static const uint32_t feature_msrs[] = {MSR_UCODE_REVISION, MSR_PLATFORM_INFO};
#define FEATURE_COUNT (sizeof(feature_msrs) / sizeof(feature_msrs[0]))

static int feature_msr(uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_UCODE_REVISION:
		*value = UINT64_C(1) << 32;
		return 0;
	case MSR_PLATFORM_INFO:
		*value = PLATFORM_INFO_FAULTING;
		return 0;
	default:
		return -EINVAL;
	}
}

void msr_reset(struct vcpu *vcpu)
{
	struct vcpu_msrs *msrs = &vcpu->msrs;

	memset(msrs, 0, sizeof(*msrs));
	msrs->tsc_base = cpu_state(vcpu->cpu)->tsc_offset;
	msrs->misc_enable = MISC_ENABLE_DEFAULT;
	msrs->mcg_cap = MCE_BANKS;
	msrs->poll_control = 1;
	for (uint32_t i = 0; i < MCE_BANKS; i++)
		msrs->mc[4 * i] = UINT64_MAX;
	(void)feature_msr(MSR_UCODE_REVISION, &msrs->ucode_revision);
	(void)feature_msr(MSR_PLATFORM_INFO, &msrs->platform_info);
}

static bool is_canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static const struct msr_plain *find_plain(uint32_t index)
{
	for (size_t i = 0; i < sizeof(plain_msrs) / sizeof(plain_msrs[0]); i++)
		if (plain_msrs[i].index == index)
			return &plain_msrs[i];
	return NULL;
}

static uint64_t *plain_value(struct vcpu *vcpu, const struct msr_plain *plain)
{
	char *base = plain->in_cpu ? (char *)cpu_state(vcpu->cpu) : (char *)&vcpu->msrs;

	return (uint64_t *)(base + plain->offset);
}

/* Registers that come in rows: the place of @index, NULL when it is in none. */
static uint64_t *find_in_row(struct vcpu_msrs *msrs, uint32_t index)
{
	if (index >= MSR_MTRR_VARIABLE_FIRST && index <= MSR_MTRR_VARIABLE_LAST)
		return &msrs->mtrr_variable[index - MSR_MTRR_VARIABLE_FIRST];
	if (index == MSR_MTRR_FIX64K)
		return &msrs->mtrr_fixed[0];
	if (index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1)
		return &msrs->mtrr_fixed[1 + index - MSR_MTRR_FIX16K];
	if (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8)
		return &msrs->mtrr_fixed[3 + index - MSR_MTRR_FIX4K];
	if (index >= MSR_MC_FIRST && index <= MSR_MC_LAST &&
	    (index - MSR_MC_FIRST) / 4 < (msrs->mcg_cap & 0xff))
		return &msrs->mc[index - MSR_MC_FIRST];
	return NULL;
}

/* Memory types in bytes of @value: 0, 1, 4, 5, 6 only. */
static bool memory_types_valid(uint64_t value, uint32_t allowed)
{
	for (int i = 0; i < 8; i++, value >>= 8)
		if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
			return false;
	return true;
}

static int write_in_row(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	uint64_t *place = find_in_row(&vcpu->msrs, index);

	if (!place)
		return -ENOENT;
	if (index >= MSR_MTRR_FIX64K && index < MSR_MTRR_FIX4K + 8 &&
	    !memory_types_valid(value, 0x73))
		return -EINVAL;
	*place = value;
	return 0;
}

/* After a write to the CPU's own state. The guest writes from inside cpu_run(), where the CPU sees
 * it by itself. */
static void state_changed(struct vcpu *vcpu, enum msr_origin origin)
{
	if (origin == MSR_FROM_CLIENT)
		cpu_state_changed(vcpu->cpu);
}

static uint64_t guest_tsc(struct vcpu *vcpu)
{
	return clock_tsc() + cpu_state(vcpu->cpu)->tsc_offset;
}

/* A client that saves and restores need not know whether there is one. */
static bool mcg_ctl_visible(const struct vcpu_msrs *msrs, enum msr_origin origin)
{
	return origin == MSR_FROM_CLIENT || (msrs->mcg_cap & MCG_CTL_PRESENT);
}

#define LEAF_PV_FEATURES 0x40000001u
enum pv_feature { PV_CLOCK = 0, PV_CLOCK_NEW = 3, PV_STEAL_TIME = 5, PV_POLL_CONTROL = 12 };

/* Which bit of KVM's leaf of features an MSR comes with. */
static const struct {
	uint32_t index, feature;
} pv_msrs[] = {
    {MSR_KVM_WALL_CLOCK_OLD, PV_CLOCK},	 {MSR_KVM_SYSTEM_TIME_OLD, PV_CLOCK},
    {MSR_KVM_WALL_CLOCK, PV_CLOCK_NEW},	 {MSR_KVM_SYSTEM_TIME, PV_CLOCK_NEW},
    {MSR_KVM_STEAL_TIME, PV_STEAL_TIME}, {MSR_KVM_POLL_CONTROL, PV_POLL_CONTROL},
};

int msr_pv_has(const struct vcpu *vcpu, uint32_t feature)
{
	if (!vcpu->enforce_pv)
		return 1;
	return cpuid_register(vcpu, LEAF_PV_FEATURES, CPUID_EAX) >> feature & 1;
}

/* The client's own accesses are withheld, too. */
static bool is_withheld(const struct vcpu *vcpu, uint32_t index)
{
	for (size_t i = 0; i < sizeof(pv_msrs) / sizeof(pv_msrs[0]); i++)
		if (pv_msrs[i].index == index)
			return !msr_pv_has(vcpu, pv_msrs[i].feature);
	return false;
}

/* TSC_AUX comes with the instructions that read it. The client may always save and restore it. */
static bool exists_for(const struct vcpu *vcpu, enum msr_origin origin, uint32_t index)
{
	if (is_withheld(vcpu, index))
		return false;
	if (index == MSR_PLATFORM_INFO && origin == MSR_FROM_GUEST)
		return !atomic_load(&vcpu->vm->settings.hide_platform_info);
	if (index != MSR_TSC_AUX || origin == MSR_FROM_CLIENT)
		return true;
	return (cpuid_register(vcpu, 0x80000001, CPUID_EDX) & CPUID_RDTSCP) ||
	       (cpuid_register(vcpu, 7, CPUID_ECX) & CPUID_RDPID);
}

/* KVM's own MSRs. */
static int read_pv(const struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		*value = vcpu->msrs.wall_clock;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		*value = vcpu->msrs.system_time;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = vcpu->steal.msr;
		return 0;
	default:
		return -ENOENT;
	}
}

int msr_read(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value)
{
	const struct msr_plain *plain = find_plain(index);
	struct vcpu_msrs *msrs = &vcpu->msrs;
	uint64_t *place = find_in_row(msrs, index);

	if (!exists_for(vcpu, origin, index))
		return -ENOENT;
	if (plain)
		place = plain_value(vcpu, plain);
	if (place) {
		*value = *place;
		return 0;
	}
	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
		if (!vcpu->lapic.present)
			return -EINVAL;
		return lapic_msr_read(vcpu, index, value) == CPU_MSR_OK ? 0 : -EINVAL;
	}
	switch (index) {
	case MSR_EFER:
		*value = cpu_state(vcpu->cpu)->efer;
		return 0;
	case MSR_PAT:
		/* The client saves L1's; L2's comes with the nested state. */
		*value = origin == MSR_FROM_CLIENT ? *cpu_nested_l1_pat(vcpu->cpu)
						   : cpu_state(vcpu->cpu)->pat;
		return 0;
	case MSR_TSC:
		*value = guest_tsc(vcpu);
		return 0;
	case MSR_TSC_ADJUST:
		*value = cpu_state(vcpu->cpu)->tsc_offset - msrs->tsc_base;
		return 0;
	case MSR_APIC_BASE:
		*value = lapic_get_base(vcpu);
		return 0;
	case MSR_TSC_DEADLINE:
		*value = lapic_get_tsc_deadline(vcpu);
		return 0;
	case MSR_MTRR_CAP:
		*value = 0x500 | MSR_MTRR_VARIABLE;
		return 0;
	case MSR_MCG_CTL:
		*value = msrs->mcg_ctl;
		return mcg_ctl_visible(msrs, origin) ? 0 : -EINVAL;
	case MSR_MISC_ENABLE:
		*value = msrs->misc_enable;
		return 0;
	case MSR_AMD_HWCR:
		*value = msrs->amd_hwcr;
		return 0;
	case MSR_DEBUG_CONTROL:
	case MSR_PLATFORM_ID:
	case MSR_UCODE_WRITE:
		*value = 0;
		return 0;
	default:
		return read_pv(vcpu, index, value);
	}
}

/* Without KVM's quirk MISC_ENABLE_NO_MWAIT the bit decides whether CPUID shows MWAIT. */
static int write_misc_enable(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	uint64_t old = vcpu->msrs.misc_enable;
	bool decides =
	    atomic_load(&vcpu->vm->settings.disabled_quirks) & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT;

	if (origin == MSR_FROM_GUEST) {
		if ((old ^ value) & MISC_ENABLE_READ_ONLY)
			return -EINVAL;
		value = (value & ~MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
	}
	if (decides && ((old ^ value) & MISC_ENABLE_MWAIT) &&
	    !(cpuid_register(vcpu, 1, CPUID_ECX) & CPUID_SSE3))
		return -EINVAL;
	vcpu->msrs.misc_enable = value;
	return 0;
}

static int write_efer(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint64_t changed = state->efer ^ value;
	bool has_svm = cpuid_register(vcpu, 0x80000001, CPUID_ECX) >> 2 & 1;

	if (value & ~(EFER_VALID | (has_svm ? EFER_SVME : 0)))
		return -EINVAL;
	if (origin == MSR_FROM_GUEST && (changed & EFER_LME) && (state->cr0 & CR0_PG))
		return -EINVAL;
	if (!(value & EFER_SVME))
		cpu_nested_leave(vcpu->cpu);
	/* LMA follows LME and paging by itself. */
	state->efer = (value & ~EFER_LMA) | (state->efer & EFER_LMA);
	state_changed(vcpu, origin);
	return 0;
}

/*
 * The guest's write shows in IA32_TSC_ADJUST, the client's does not. A client that writes nearly
 * what the vCPU counts anyway wants the vCPUs in step, not a jump.
 */
static void write_tsc(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	uint64_t delta = value - guest_tsc(vcpu);
	uint64_t second = (uint64_t)clock_tsc_khz() * 1000;

	if (origin == MSR_FROM_CLIENT && delta + second < 2 * second)
		return;
	cpu_state(vcpu->cpu)->tsc_offset += delta;
	if (origin == MSR_FROM_CLIENT)
		vcpu->msrs.tsc_base += delta;
	state_changed(vcpu, origin);
	clock_update_page(vcpu);
}

static void write_tsc_adjust(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	/* A client restores the value; the TSC itself it restores by MSR_TSC. */
	if (origin == MSR_FROM_CLIENT) {
		vcpu->msrs.tsc_base = state->tsc_offset - value;
		return;
	}
	state->tsc_offset = vcpu->msrs.tsc_base + value;
	clock_update_page(vcpu);
}

static int write_plain(struct vcpu *vcpu, enum msr_origin origin, const struct msr_plain *plain,
		       uint64_t value)
{
	uint64_t *place = plain_value(vcpu, plain);

	if (origin == MSR_FROM_GUEST && (value & ~plain->writable))
		return -EINVAL;
	if (plain->canonical && !is_canonical(value))
		return -EINVAL;
	*place = value;
	if (plain->in_cpu)
		state_changed(vcpu, origin);
	return 0;
}

static int write_pat(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	if (!memory_types_valid(value, 0xf3))
		return -EINVAL;
	if (origin == MSR_FROM_CLIENT)
		*cpu_nested_l1_pat(vcpu->cpu) = value;
	else
		cpu_state(vcpu->cpu)->pat = value;
	state_changed(vcpu, origin);
	return 0;
}

/* AMD's processors drop the upper half of some values that Intel's keep, or refuse. */
static bool is_cut(const struct vcpu *vcpu, uint32_t index)
{
	uint32_t vendor = cpuid_register(vcpu, 0, CPUID_EBX);

	if (vendor != VENDOR_AMD && vendor != VENDOR_HYGON)
		return false;
	return index == MSR_TSC_AUX || index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP;
}

int msr_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value)
{
	const struct msr_plain *plain = find_plain(index);

	if (!exists_for(vcpu, origin, index))
		return -ENOENT;
	if (is_cut(vcpu, index))
		value = (uint32_t)value;
	if (plain)
		return write_plain(vcpu, origin, plain, value);
	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
		if (!vcpu->lapic.present)
			return -EINVAL;
		return lapic_msr_write(vcpu, index, value) == CPU_MSR_OK ? 0 : -EINVAL;
	}
	switch (index) {
	case MSR_EFER:
		return write_efer(vcpu, origin, value);
	case MSR_PAT:
		return write_pat(vcpu, origin, value);
	case MSR_TSC:
		write_tsc(vcpu, origin, value);
		return 0;
	case MSR_TSC_ADJUST:
		write_tsc_adjust(vcpu, origin, value);
		return 0;
	case MSR_APIC_BASE:
		return lapic_set_base(vcpu, origin, value);
	case MSR_TSC_DEADLINE:
		lapic_set_tsc_deadline(vcpu, value);
		return 0;
	case MSR_MCG_CTL:
		if (!mcg_ctl_visible(&vcpu->msrs, origin) || (value && ~value))
			return -EINVAL;
		vcpu->msrs.mcg_ctl = value;
		return 0;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_OLD:
		vcpu->msrs.wall_clock = value;
		clock_write_wall(vcpu, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_OLD:
		clock_set_page(vcpu, value);
		return 0;
	case MSR_KVM_STEAL_TIME:
		return steal_time_set(vcpu, value);
	case MSR_MISC_ENABLE:
		return write_misc_enable(vcpu, origin, value);
	case MSR_AMD_HWCR:
		if (value & ~(HWCR_IGNORED | HWCR_VALID))
			return -EINVAL;
		vcpu->msrs.amd_hwcr = value & HWCR_VALID;
		return 0;
	case MSR_DEBUG_CONTROL:
		return value ? -EINVAL : 0;
	case MSR_UCODE_WRITE:
		return 0;
	default:
		return write_in_row(vcpu, index, value);
	}
}

static long copy_msr_list(struct ioctl_call *call, const uint32_t *list, uint32_t count)
{
	struct kvm_msr_list *header = call->data;
	uint32_t room = header->nmsrs;

	header->nmsrs = count;
	if (room < count)
		return -E2BIG;
	return user_copy_out(call->argument + sizeof(*header), list, count * sizeof(*list));
}

long system_get_msr_list(struct ioctl_call *call)
{
	return copy_msr_list(call, saved_msrs, SAVED_COUNT);
}

long system_get_msr_feature_list(struct ioctl_call *call)
{
	return copy_msr_list(call, feature_msrs, FEATURE_COUNT);
}

/* KVM's limit on one call. */
#define MSR_BATCH 256u

static int feature_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	uint64_t value = 0;
	int error = feature_msr(entry->index, &value);

	(void)vcpu;
	entry->data = value;
	return error;
}

static int read_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	uint64_t value = 0;
	int error = msr_read(vcpu, MSR_FROM_CLIENT, entry->index, &value);

	entry->data = value;
	return error;
}

static int write_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	return msr_write(vcpu, MSR_FROM_CLIENT, entry->index, entry->data);
}

/*
 * Do the entries in order up to the first that fails; the result is how many were done. @back:
 * copy them out again.
 */
static long msr_batch(struct ioctl_call *call,
		      int (*one)(struct vcpu *vcpu, struct kvm_msr_entry *entry), bool back)
{
	const struct kvm_msrs *header = call->data;
	uint64_t user = call->argument + sizeof(*header);
	struct kvm_msr_entry *entries;
	size_t size_bytes = header->nmsrs * sizeof(*entries);
	long done = 0;

	if (header->nmsrs >= MSR_BATCH)
		return -E2BIG;
	entries = malloc(size_bytes + 1);
	if (!entries)
		return -ENOMEM;
	if (user_copy_in(entries, user, size_bytes)) {
		free(entries);
		return -EFAULT;
	}
	while (done < header->nmsrs && !one(call->object, &entries[done]))
		done++;
	if (back && user_copy_out(user, entries, size_bytes))
		done = -EFAULT;
	free(entries);
	return done;
}

long system_get_msrs(struct ioctl_call *call)
{
	return msr_batch(call, feature_one, true);
}

long vcpu_get_msrs(struct ioctl_call *call)
{
	return msr_batch(call, read_one, true);
}

long vcpu_set_msrs(struct ioctl_call *call)
{
	return msr_batch(call, write_one, false);
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

	if (!banks || banks > MCE_BANKS || (*cap & ~(MCG_SUPPORTED | UINT64_C(0xff))))
		return -EINVAL;
	vcpu->msrs.mcg_cap = *cap;
	vcpu->msrs.mcg_ctl = *cap & MCG_CTL_PRESENT ? UINT64_MAX : 0;
	for (uint32_t i = 0; i < banks; i++)
		vcpu->msrs.mc[4 * i] = UINT64_MAX;
	return 0;
}
