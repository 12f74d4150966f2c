/*
 * Model-specific registers: what each is, for the guest and for the client.
 *
 * Three tables, asked in this order: registers that are one value and drop what is written
 * (fixed_msrs), those that are storage (plain_msrs), those that come in rows. A function knows the
 * ones with behaviour.
 */
#include "frontend/state/msr.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/clock.h"
#include "frontend/state/cpuid.h"
#include "frontend/state/msr_index.h"
#include "frontend/state/msr_lists.h"
#include "frontend/state/msr_mce.h"
#include "frontend/state/nested_state.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

/* Leaf 0, EBX: the first letters of AuthenticAMD and HygonGenuine. */
#define VENDOR_AMD 0x68747541u
#define VENDOR_HYGON 0x6f677948u
#define CPUID_RDTSCP (UINT32_C(1) << 27)    /* leaf 80000001, EDX */
#define CPUID_RDPID (UINT32_C(1) << 22)	    /* leaf 7, ECX */
#define CPUID_TSC_ADJUST (UINT32_C(1) << 1) /* leaf 7, EBX */
#define CPUID_ARCH_CAP (UINT32_C(1) << 29)  /* leaf 7, EDX */
#define CPUID_SSE3 UINT32_C(1)		    /* leaf 1, ECX */

/* No branch trace storage, no event sampling: the guest may not change these. */
#define MISC_ENABLE_DEFAULT UINT64_C(0x1800)
#define MISC_ENABLE_READ_ONLY UINT64_C(0x1800)
#define MISC_ENABLE_EMON UINT64_C(0x80) /* nor this; it is told nothing */
#define HWCR_IGNORED UINT64_C(0x148)
#define HWCR_VALID (UINT64_C(1) << 18 | UINT64_C(1) << 24)
#define PLATFORM_INFO_FAULTING (UINT64_C(1) << 31)
#define FEATURES_CPUID_FAULT UINT64_C(1)
/* No branch records, no stepping by branches: writes of these are heard and do nothing. */
#define DEBUG_CONTROL_IGNORED UINT64_C(3)
#define VM_CR_VALID UINT64_C(0x1f)
#define VM_CR_LOCKS UINT64_C(0x18) /* lock, and SVM switched off */
#define VM_CR_DISABLED UINT64_C(0x10)
#define TSC_RATIO_DEFAULT (UINT64_C(1) << 32)
#define VIRT_SPEC_SSBD UINT64_C(4)

/* What is one value for ever. @drops: writes are taken and forgotten; else there are none. */
static const struct msr_fixed {
	uint32_t first, last;
	bool reads, drops;
	uint64_t value;
} fixed_msrs[] = {
    {0x0, 0x1, true, false, 0},				   /* P5_MC_ADDR, P5_MC_TYPE */
    {0x17, 0x17, true, false, 0},			   /* PLATFORM_ID */
    {0x2a, 0x2a, true, false, 0},			   /* EBL_CR_POWERON */
    {0x2c, 0x2c, true, false, UINT64_C(1) << 24},	   /* EBC_FREQUENCY_ID: a ratio of 1 */
    {0x79, 0x79, false, true, 0},			   /* UCODE_WRITE */
    {0xc1, 0xc2, true, true, 0},			   /* P6_PERFCTR */
    {0xcd, 0xcd, true, false, 3},			   /* FSB_FREQ */
    {0x11e, 0x11e, true, true, 0xbe702111},		   /* BBL_CR_CTL3 */
    {0x186, 0x187, true, true, 0},			   /* P6_EVNTSEL */
    {0x198, 0x198, true, false, UINT64_C(4) << 40 | 1000}, /* PERF_STATUS */
    {0x199, 0x199, true, false, 0},			   /* PERF_CTL */
    {0x1db, 0x1de, true, false, 0},			   /* the last branch and interrupt */
    {0x606, 0x606, true, false, 0},			   /* RAPL_POWER_UNIT, and energy of */
    {0x611, 0x611, true, false, 0},			   /* the package */
    {0x619, 0x619, true, false, 0},			   /* its memory */
    {0x639, 0x639, true, false, 0},			   /* its cores */
    {0x641, 0x641, true, false, 0},			   /* what else is on it */
    {0xc0010000, 0xc0010007, true, true, 0},		   /* K7_EVNTSEL, K7_PERFCTR */
    {0xc0010010, 0xc0010010, true, false, 0},		   /* SYSCFG */
    {0xc001001b, 0xc001001b, true, true, 0x20000000},	   /* K7_CLK_CTL */
    {0xc001001f, 0xc001001f, true, true, 0},		   /* NB_CFG */
    {0xc0010020, 0xc0010020, false, true, 0},		   /* PATCH_LOADER */
    {0xc0010055, 0xc0010055, true, false, 0},		   /* INT_PENDING_MSG */
    {0xc0010112, 0xc0010113, true, false, 0},		   /* TSEG_ADDR, TSEG_MASK */
    {0xc0010115, 0xc0010115, false, true, 0},		   /* VM_IGNNE */
    {0xc0011021, 0xc0011021, true, false, 0},		   /* IC_CFG */
    {0xc0011022, 0xc0011023, true, true, 0},		   /* DC_CFG, TW_CFG */
    {0xc001102a, 0xc001102a, true, true, 0},		   /* BU_CFG2 */
    {0xc001102c, 0xc001102c, true, true, 0},		   /* EX_CFG */
};

/* Is the value of @value one that the register takes from @origin? */
typedef bool (*msr_rule)(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value);

static bool any(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)vcpu, (void)origin, (void)value;
	return true;
}

static bool client_only(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)vcpu, (void)value;
	return origin == MSR_FROM_CLIENT;
}

/* As wide as linear addresses become with five levels, whatever this guest's CPUID says. */
static uint64_t make_canonical(uint64_t value)
{
	unsigned int shift = 64 - 57;

	return (uint64_t)((int64_t)(value << shift) >> shift);
}

static bool canonical(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)vcpu, (void)origin;
	return make_canonical(value) == value;
}

static bool half(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)vcpu;
	return origin == MSR_FROM_CLIENT || !(value >> 32);
}

static bool one_bit(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)vcpu, (void)origin;
	return value <= 1;
}

static bool spec_ctrl(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	return client_only(vcpu, origin, value) && !(value & ~VIRT_SPEC_SSBD);
}

/* What the processor of @vcpu offers, and no more. */
static bool de_cfg(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	uint64_t offered;

	(void)vcpu, (void)origin;
	return !msr_feature(MSR_AMD_DE_CFG, &offered) && !(value & ~offered);
}

/* CPUID can be made to fault where the platform says that it can. */
static bool features(const struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	(void)origin;
	if (value & ~FEATURES_CPUID_FAULT)
		return false;
	return !value || (vcpu->msrs.platform_info & PLATFORM_INFO_FAULTING);
}

/* MSRs that are storage. */
struct msr_plain {
	uint32_t index;
	bool in_cpu; /* in struct cpu_state, else in struct vcpu_msrs */
	size_t offset;
	msr_rule takes;
};
#define IN_CPU(field) true, offsetof(struct cpu_state, field)
#define IN_VCPU(field) false, offsetof(struct vcpu_msrs, field)

static const struct msr_plain plain_msrs[] = {
    {MSR_STAR, IN_CPU(star), any},
    {MSR_LSTAR, IN_CPU(lstar), canonical},
    {MSR_CSTAR, IN_CPU(cstar), canonical},
    {MSR_SFMASK, IN_CPU(sfmask), half},
    {MSR_FS_BASE, IN_CPU(seg[CPU_FS].base), canonical},
    {MSR_GS_BASE, IN_CPU(seg[CPU_GS].base), canonical},
    {MSR_KERNEL_GS_BASE, IN_CPU(kernel_gs_base), canonical},
    {MSR_TSC_AUX, IN_CPU(tsc_aux), any},
    {MSR_SYSENTER_CS, IN_CPU(sysenter_cs), any},
    {MSR_SYSENTER_ESP, IN_CPU(sysenter_esp), any},
    {MSR_SYSENTER_EIP, IN_CPU(sysenter_eip), any},
    {MSR_FEATURE_CONTROL, IN_VCPU(feature_control), client_only},
    {MSR_KVM_POLL_CONTROL, IN_VCPU(poll_control), one_bit},
    {MSR_UCODE_REVISION, IN_VCPU(ucode_revision), client_only},
    {MSR_PLATFORM_INFO, IN_VCPU(platform_info), client_only},
    {MSR_ARCH_CAPABILITIES, IN_VCPU(arch_capabilities), client_only},
    {MSR_FEATURES_ENABLES, IN_VCPU(features_enables), features},
    {MSR_SMI_COUNT, IN_CPU(smi_count), client_only},
    {MSR_SMBASE, IN_CPU(smbase), client_only},
    {MSR_POWER_CTL, IN_VCPU(power_ctl), any},
    {MSR_AMD_DE_CFG, IN_VCPU(amd_de_cfg), de_cfg},
    {MSR_AMD_VIRT_SPEC_CTRL, IN_VCPU(amd_virt_spec_ctrl), spec_ctrl},
    {MSR_AMD_VM_CR, IN_VCPU(amd_vm_cr), any},
    {MSR_AMD_VM_HSAVE_PA, IN_CPU(vm_hsave), any},
};

void msr_reset(struct vcpu *vcpu)
{
	bool is_stuffed =
	    !(atomic_load(&vcpu->vm->settings.disabled_quirks) & UAPI_QUIRK_STUFF_FEATURE_MSRS);
	struct vcpu_msrs *msrs = &vcpu->msrs;

	memset(msrs, 0, sizeof(*msrs));
	msrs->tsc_base = cpu_state(vcpu->cpu)->tsc_offset;
	msrs->misc_enable = MISC_ENABLE_DEFAULT;
	msrs->mcg_cap = MSR_MCE_BANKS;
	msrs->poll_control = 1;
	if (is_stuffed) {
		(void)msr_feature(MSR_UCODE_REVISION, &msrs->ucode_revision);
		(void)msr_feature(MSR_PLATFORM_INFO, &msrs->platform_info);
		(void)msr_feature(MSR_ARCH_CAPABILITIES, &msrs->arch_capabilities);
	}
}

static const struct msr_fixed *find_fixed(uint32_t index)
{
	for (size_t i = 0; i < sizeof(fixed_msrs) / sizeof(fixed_msrs[0]); i++)
		if (index >= fixed_msrs[i].first && index <= fixed_msrs[i].last)
			return &fixed_msrs[i];
	return NULL;
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

/* Where the memory type range register @index is kept; NULL when @index is no such register. */
static uint64_t *find_mtrr(struct vcpu_msrs *msrs, uint32_t index)
{
	if (index >= MSR_MTRR_VARIABLE_FIRST && index <= MSR_MTRR_VARIABLE_LAST)
		return &msrs->mtrr_variable[index - MSR_MTRR_VARIABLE_FIRST];
	if (index == MSR_MTRR_FIX64K)
		return &msrs->mtrr_fixed[0];
	if (index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1)
		return &msrs->mtrr_fixed[1 + index - MSR_MTRR_FIX16K];
	if (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8)
		return &msrs->mtrr_fixed[3 + index - MSR_MTRR_FIX4K];
	return index == MSR_MTRR_DEFAULT ? &msrs->mtrr_default : NULL;
}

/* Memory types in bytes of @value, each of which must be in the set @allowed. */
static bool memory_types_valid(uint64_t value, uint32_t allowed, int count)
{
	for (int i = 0; i < count; i++, value >>= 8)
		if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
			return false;
	return true;
}

#define MTRR_TYPES 0x73u /* UC, WC, WT, WP, WB */

/* The client's values are checked as the guest's. */
static bool mtrr_valid(const struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	uint32_t phys_bits = cpuid_phys_bits(vcpu);
	uint64_t beyond = phys_bits < 64 ? value >> phys_bits : 0;

	if (index == MSR_MTRR_DEFAULT)
		return !(value & ~UINT64_C(0xcff)) && memory_types_valid(value, MTRR_TYPES, 1);
	if (index >= MSR_MTRR_FIX64K)
		return memory_types_valid(value, MTRR_TYPES, 8);
	if (index & 1)
		return !(value & 0x7ff) && !beyond;
	return memory_types_valid(value, MTRR_TYPES, 1) && !(value & 0xf00) && !beyond;
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

enum pv_feature {
	PV_CLOCK = 0,
	PV_CLOCK_NEW = 3,
	PV_ASYNC_PF = 4,
	PV_STEAL_TIME = 5,
	PV_EOI = 6,
	PV_POLL_CONTROL = 12,
	PV_ASYNC_PF_INT = 14,
};

/* Which bit of KVM's leaf of features an MSR comes with. */
static const struct {
	uint32_t index, feature;
} pv_msrs[] = {
    {MSR_KVM_WALL_CLOCK_OLD, PV_CLOCK},	     {MSR_KVM_SYSTEM_TIME_OLD, PV_CLOCK},
    {MSR_KVM_WALL_CLOCK, PV_CLOCK_NEW},	     {MSR_KVM_SYSTEM_TIME, PV_CLOCK_NEW},
    {MSR_KVM_STEAL_TIME, PV_STEAL_TIME},     {MSR_KVM_POLL_CONTROL, PV_POLL_CONTROL},
    {MSR_KVM_ASYNC_PF_EN, PV_ASYNC_PF},	     {MSR_KVM_ASYNC_PF_INT, PV_ASYNC_PF_INT},
    {MSR_KVM_ASYNC_PF_ACK, PV_ASYNC_PF_INT}, {MSR_KVM_PV_EOI_EN, PV_EOI},
};

int msr_pv_has(const struct vcpu *vcpu, uint32_t feature)
{
	uint32_t leaf;

	if (!vcpu->enforce_pv)
		return 1;
	leaf = cpuid_pv_leaf(vcpu);
	return leaf && (cpuid_register(vcpu, leaf, CPUID_EAX) >> feature & 1);
}

int msr_is_amd(const struct vcpu *vcpu)
{
	uint32_t vendor = cpuid_register(vcpu, 0, CPUID_EBX);

	return vendor == VENDOR_AMD || vendor == VENDOR_HYGON;
}

/* The client's own accesses are withheld, too. */
static bool is_withheld(const struct vcpu *vcpu, uint32_t index)
{
	for (size_t i = 0; i < sizeof(pv_msrs) / sizeof(pv_msrs[0]); i++)
		if (pv_msrs[i].index == index)
			return !msr_pv_has(vcpu, pv_msrs[i].feature);
	return false;
}

/*
 * May @origin have it at all? 0 or -errno. TSC_AUX comes with the instructions that read it; the
 * client may always save and restore it.
 */
static int access_error(const struct vcpu *vcpu, enum msr_origin origin, uint32_t index)
{
	bool is_guest = origin == MSR_FROM_GUEST;

	if (is_withheld(vcpu, index))
		return -ENOENT;
	switch (index) {
	case MSR_ARCH_CAPABILITIES:
		return cpuid_register(vcpu, 7, CPUID_EDX) & CPUID_ARCH_CAP ? 0 : -ENOENT;
	case MSR_AMD_DE_CFG:
		return cpuid_host_is_amd() ? 0 : -ENOENT;
	case MSR_TSC_AUX:
		if (!is_guest || (cpuid_register(vcpu, 0x80000001, CPUID_EDX) & CPUID_RDTSCP) ||
		    (cpuid_register(vcpu, 7, CPUID_ECX) & CPUID_RDPID))
			return 0;
		return -EINVAL;
	case MSR_AMD_OSVW_LENGTH:
	case MSR_AMD_OSVW_STATUS:
		return -EINVAL;
	case MSR_SMBASE:
	case MSR_XFD:
	case MSR_XFD_ERROR:
	case MSR_AMD_TSC_RATIO:
	case MSR_AMD_VIRT_SPEC_CTRL:
		return is_guest ? -EINVAL : 0;
	default:
		return 0;
	}
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
	case MSR_KVM_PV_EOI_EN:
		*value = vcpu->pv_eoi.msr;
		return 0;
	case MSR_KVM_ASYNC_PF_EN:
		*value = vcpu->async_pf.msr;
		return 0;
	case MSR_KVM_ASYNC_PF_INT:
		*value = vcpu->async_pf.vector_msr;
		return 0;
	case MSR_KVM_ASYNC_PF_ACK:
		*value = 0;
		return 0;
	default:
		return -ENOENT;
	}
}

static int read_special(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value)
{
	struct vcpu_msrs *msrs = &vcpu->msrs;

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
		/* The client saves L1's. */
		*value = guest_tsc(vcpu);
		if (origin == MSR_FROM_GUEST)
			*value += cpu_nested_tsc_offset(vcpu->cpu);
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
	case MSR_MISC_ENABLE:
		*value = msrs->misc_enable;
		return 0;
	case MSR_XSS:
		*value = 0;
		return origin == MSR_FROM_CLIENT ? 0 : -EINVAL;
	case MSR_AMD_TSC_RATIO:
		*value = TSC_RATIO_DEFAULT;
		return 0;
	case MSR_AMD_HWCR:
		*value = msrs->amd_hwcr;
		return 0;
	case MSR_XFD:
	case MSR_XFD_ERROR:
	case MSR_DEBUG_CONTROL:
	case MSR_AMD_MMIO_CONFIG:
		*value = 0;
		return 0;
	default:
		return read_pv(vcpu, index, value);
	}
}

static int read_known(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value)
{
	const struct msr_fixed *fixed = find_fixed(index);
	const struct msr_plain *plain = find_plain(index);
	const uint64_t *place = plain ? plain_value(vcpu, plain) : find_mtrr(&vcpu->msrs, index);
	int error = access_error(vcpu, origin, index);

	if (error)
		return error;
	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
		if (!vcpu->lapic.present)
			return -EINVAL;
		return lapic_msr_read(vcpu, index, value) == CPU_MSR_OK ? 0 : -EINVAL;
	}
	if (index == MSR_PLATFORM_INFO && origin == MSR_FROM_GUEST &&
	    atomic_load(&vcpu->vm->settings.hide_platform_info))
		return -EINVAL;
	if (fixed) {
		*value = fixed->value;
		return fixed->reads ? 0 : -ENOENT;
	}
	if (place) {
		*value = *place;
		return 0;
	}
	if (mce_covers(index))
		return mce_read(&vcpu->msrs, origin, index, value);
	return read_special(vcpu, origin, index, value);
}

/* As many lines as the kernel's log takes of one kind: ten in five seconds. */
static bool report_is_due(void)
{
	static atomic_uint_fast64_t period_start_ns;
	static atomic_uint lines;
	uint64_t now = timers_now_ns();

	if (now - atomic_load(&period_start_ns) > UINT64_C(5000000000)) {
		atomic_store(&period_start_ns, now);
		atomic_store(&lines, 0);
	}
	return atomic_fetch_add(&lines, 1) < 10;
}

int msr_settle_unknown(enum msr_origin origin, enum msr_access access, uint32_t index,
		       uint64_t value, int error)
{
	if (error != -ENOENT)
		return error;
	if (origin == MSR_FROM_CLIENT && !value && msr_is_saved(index))
		return 0;
	if (!params_live(PARAMS_IGNORE_MSRS))
		return error;
	if (params_live(PARAMS_REPORT_IGNORED_MSRS) && report_is_due())
		fprintf(stderr, "quire: ignored %s: 0x%x data 0x%llx\n",
			access == MSR_ACCESS_READ ? "rdmsr" : "wrmsr", index,
			(unsigned long long)value);
	return 0;
}

int msr_read(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t *value)
{
	int error = read_known(vcpu, origin, index, value);

	if (error)
		*value = 0;
	return msr_settle_unknown(origin, MSR_ACCESS_READ, index, *value, error);
}

static int write_efer(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint64_t changed = state->efer ^ value;

	if (nested_is_offered())
		known |= EFER_SVME;
	/* The client may be ahead of the guest's CPUID. */
	if ((value & ~known) || (origin == MSR_FROM_GUEST && (value & ~cpuid_efer_bits(vcpu))))
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

	if (!(cpuid_register(vcpu, 7, CPUID_EBX) & CPUID_TSC_ADJUST))
		return;
	/* A client restores the value; the TSC itself it restores by MSR_TSC. */
	if (origin == MSR_FROM_CLIENT) {
		vcpu->msrs.tsc_base = state->tsc_offset - value;
		return;
	}
	state->tsc_offset = vcpu->msrs.tsc_base + value;
	clock_update_page(vcpu);
}

/* The place where a processor would save its own state: a page of the guest's. */
static int write_hsave(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	if (origin == MSR_FROM_GUEST && ((value & 0xfff) || value >> cpuid_phys_bits(vcpu)))
		return -EINVAL;
	cpu_state(vcpu->cpu)->vm_hsave = value & ~UINT64_C(0xfff);
	return 0;
}

/* Once SVM is switched off, that and the lock on it stay. */
static int write_vm_cr(struct vcpu *vcpu, uint64_t value)
{
	uint64_t old = vcpu->msrs.amd_vm_cr;
	uint64_t may = old & VM_CR_DISABLED ? VM_CR_VALID & ~VM_CR_LOCKS : VM_CR_VALID;
	uint64_t wanted = (old & ~may) | (value & may);

	if (value & ~VM_CR_VALID)
		return -EINVAL;
	if ((wanted & VM_CR_DISABLED) && (cpu_state(vcpu->cpu)->efer & EFER_SVME))
		return -EINVAL;
	vcpu->msrs.amd_vm_cr = wanted;
	return 0;
}

static int write_plain(struct vcpu *vcpu, enum msr_origin origin, const struct msr_plain *plain,
		       uint64_t value)
{
	uint64_t *place = plain_value(vcpu, plain);

	/* Heard and forgotten: the guest loads microcode only if this changes. */
	if (plain->index == MSR_UCODE_REVISION && origin == MSR_FROM_GUEST)
		return 0;
	if (!plain->takes(vcpu, origin, value))
		return plain->index == MSR_ARCH_CAPABILITIES ? -ENOENT : -EINVAL;
	if (plain->index == MSR_AMD_VM_HSAVE_PA)
		return write_hsave(vcpu, origin, value);
	if (plain->index == MSR_AMD_VM_CR)
		return write_vm_cr(vcpu, value);
	*place = value;
	if (plain->index == MSR_FEATURES_ENABLES)
		cpu_state(vcpu->cpu)->cpuid_faults = value & FEATURES_CPUID_FAULT;
	if (plain->in_cpu)
		state_changed(vcpu, origin);
	return 0;
}

static int write_pat(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	if (!memory_types_valid(value, 0xf3, 8))
		return -EINVAL;
	if (origin == MSR_FROM_CLIENT)
		*cpu_nested_l1_pat(vcpu->cpu) = value;
	else
		cpu_state(vcpu->cpu)->pat = value;
	state_changed(vcpu, origin);
	return 0;
}

static int write_misc_enable(struct vcpu *vcpu, enum msr_origin origin, uint64_t value)
{
	uint64_t quirks = atomic_load(&vcpu->vm->settings.disabled_quirks);
	uint64_t old = vcpu->msrs.misc_enable;

	if (origin == MSR_FROM_GUEST) {
		if ((value ^ old) & MISC_ENABLE_READ_ONLY)
			return -EINVAL;
		value = (value & ~MISC_ENABLE_EMON) | (old & MISC_ENABLE_EMON);
	}
	/* Where the bit shows and hides MWAIT in CPUID, it comes with SSE3. */
	if ((quirks & KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT) && ((value ^ old) & MISC_ENABLE_MWAIT) &&
	    !(cpuid_register(vcpu, 1, CPUID_ECX) & CPUID_SSE3))
		return -EINVAL;
	vcpu->msrs.misc_enable = value;
	return 0;
}

static int write_pv(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	switch (index) {
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
	case MSR_KVM_PV_EOI_EN:
		return pv_eoi_set(vcpu, value);
	case MSR_KVM_ASYNC_PF_EN:
		return async_pf_set(vcpu, value);
	case MSR_KVM_ASYNC_PF_INT:
		return async_pf_set_vector(vcpu, value);
	case MSR_KVM_ASYNC_PF_ACK:
		if (value & 1)
			async_pf_acknowledge(vcpu);
		return 0;
	default:
		return -ENOENT;
	}
}

static int write_special(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value)
{
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
	case MSR_MISC_ENABLE:
		return write_misc_enable(vcpu, origin, value);
	case MSR_AMD_HWCR:
		if (value & ~(HWCR_IGNORED | HWCR_VALID))
			return -EINVAL;
		vcpu->msrs.amd_hwcr = value & HWCR_VALID;
		return 0;
	case MSR_DEBUG_CONTROL:
		return msr_is_amd(vcpu) || !(value & ~DEBUG_CONTROL_IGNORED) ? 0 : -EINVAL;
	case MSR_AMD_TSC_RATIO:
		return !value || value == TSC_RATIO_DEFAULT ? 0 : -EINVAL;
	case MSR_PRED_CMD:
		return !value && origin == MSR_FROM_CLIENT ? 0 : -EINVAL;
	case MSR_XFD:
	case MSR_XFD_ERROR:
	case MSR_AMD_MMIO_CONFIG:
	case MSR_MTRR_CAP:
		return !value && index != MSR_MTRR_CAP ? 0 : -EINVAL;
	default:
		return write_pv(vcpu, index, value);
	}
}

/*
 * What the processor makes of a value before it is looked at. 64-bit SYSENTER is Intel's, and
 * takes an address as if it were canonical; AMD's processors have halves. TSC_AUX is half a
 * register on both, and only Intel's minds what is above.
 */
static int adapt(const struct vcpu *vcpu, uint32_t index, uint64_t *value)
{
	switch (index) {
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
		*value = msr_is_amd(vcpu) ? (uint32_t)*value : make_canonical(*value);
		return 0;
	case MSR_SYSENTER_CS:
		*value = (uint32_t)*value;
		return 0;
	case MSR_TSC_AUX:
		if (!msr_is_amd(vcpu) && *value >> 32)
			return -EINVAL;
		*value = (uint32_t)*value;
		return 0;
	default:
		return 0;
	}
}

static int write_known(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value)
{
	const struct msr_fixed *fixed = find_fixed(index);
	const struct msr_plain *plain = find_plain(index);
	uint64_t *mtrr = find_mtrr(&vcpu->msrs, index);
	int error = access_error(vcpu, origin, index);

	if (!error)
		error = adapt(vcpu, index, &value);
	if (error)
		return error;
	if (fixed)
		return fixed->drops ? 0 : -ENOENT;
	if (plain)
		return write_plain(vcpu, origin, plain, value);
	if (mtrr) {
		if (!mtrr_valid(vcpu, index, value))
			return -EINVAL;
		*mtrr = value;
		return 0;
	}
	if (mce_covers(index))
		return mce_write(vcpu, origin, index, value);
	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST) {
		if (!vcpu->lapic.present)
			return -EINVAL;
		return lapic_msr_write(vcpu, index, value) == CPU_MSR_OK ? 0 : -EINVAL;
	}
	return write_special(vcpu, origin, index, value);
}

int msr_write(struct vcpu *vcpu, enum msr_origin origin, uint32_t index, uint64_t value)
{
	int error = write_known(vcpu, origin, index, value);

	return msr_settle_unknown(origin, MSR_ACCESS_WRITE, index, value, error);
}
