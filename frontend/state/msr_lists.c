/* Lists of model-specific registers: which there are, which tell features, and many at once. */
#include "frontend/state/msr_lists.h"

#include <errno.h>
#include <stdbool.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/state/cpuid.h"
#include "frontend/state/msr_index.h"
#include "hosts/process/heap.h"
#include "vcpu/arch.h"

/*
 * What KVM_GET_MSR_INDEX_LIST names: all that a client must save, as a KVM names them without
 * VMX, Hyper-V, system management and counters. A client may read each, and write 0 to it, also
 * where the guest's CPUID leaves it out.
 */
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
    MSR_AMD_VM_HSAVE_PA,
    MSR_FEATURE_CONTROL,
    MSR_TSC_AUX,
    MSR_KVM_SYSTEM_TIME_OLD,
    MSR_KVM_WALL_CLOCK_OLD,
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_WALL_CLOCK,
    MSR_KVM_ASYNC_PF_EN,
    MSR_KVM_STEAL_TIME,
    MSR_KVM_PV_EOI_EN,
    MSR_KVM_ASYNC_PF_INT,
    MSR_KVM_ASYNC_PF_ACK,
    MSR_TSC_ADJUST,
    MSR_TSC_DEADLINE,
    MSR_ARCH_CAPABILITIES,
    MSR_PERF_CAPABILITIES,
    MSR_MISC_ENABLE,
    MSR_MCG_STATUS,
    MSR_MCG_CTL,
    MSR_SMBASE,
    MSR_SMI_COUNT,
    MSR_PLATFORM_INFO,
    MSR_FEATURES_ENABLES,
    MSR_AMD_VIRT_SPEC_CTRL,
    MSR_AMD_TSC_RATIO,
    MSR_POWER_CTL,
    MSR_UCODE_REVISION,
    MSR_AMD_HWCR,
    MSR_KVM_POLL_CONTROL,
};
#define SAVED_COUNT (sizeof(saved_msrs) / sizeof(saved_msrs[0]))

/* The last is AMD's. */
static const uint32_t feature_msrs[] = {MSR_UCODE_REVISION, MSR_ARCH_CAPABILITIES,
					MSR_PERF_CAPABILITIES, MSR_PLATFORM_INFO, MSR_AMD_DE_CFG};
#define FEATURE_COUNT (sizeof(feature_msrs) / sizeof(feature_msrs[0]))

/* Of ARCH_CAPABILITIES: the errors of processors that software does not have. */
#define ARCH_RDCL_NO (UINT64_C(1) << 0)
#define ARCH_SKIP_L1DFLUSH (UINT64_C(1) << 3)
#define ARCH_SSB_NO (UINT64_C(1) << 4)
#define ARCH_MDS_NO (UINT64_C(1) << 5)
#define ARCH_PSCHANGE_NO (UINT64_C(1) << 6)
#define ARCH_TAA_NO (UINT64_C(1) << 8)
#define ARCH_SBDR_NO (UINT64_C(1) << 13)
#define ARCH_FBSDP_NO (UINT64_C(1) << 14)
#define ARCH_PSDP_NO (UINT64_C(1) << 15)
#define ARCH_BHI_NO (UINT64_C(1) << 20)
#define ARCH_PBRSB_NO (UINT64_C(1) << 24)
#define ARCH_GDS_NO (UINT64_C(1) << 26)
#define ARCH_RFDS_NO (UINT64_C(1) << 27)
#define ARCH_ITS_NO (UINT64_C(1) << 62)
#define ARCH_SUPPORTED                                                                             \
	(ARCH_RDCL_NO | ARCH_SKIP_L1DFLUSH | ARCH_SSB_NO | ARCH_MDS_NO | ARCH_PSCHANGE_NO |        \
	 ARCH_TAA_NO | ARCH_SBDR_NO | ARCH_FBSDP_NO | ARCH_PSDP_NO | ARCH_BHI_NO | ARCH_PBRSB_NO | \
	 ARCH_GDS_NO | ARCH_RFDS_NO | ARCH_ITS_NO)
#define PLATFORM_INFO_FAULTING (UINT64_C(1) << 31)
#define DE_CFG_LFENCE (UINT64_C(1) << 1)

int msr_is_saved(uint32_t index)
{
	for (size_t i = 0; i < SAVED_COUNT; i++)
		if (saved_msrs[i] == index)
			return 1;
	return 0;
}

int msr_is_fixed_feature(uint32_t index)
{
	for (size_t i = 0; i < FEATURE_COUNT; i++)
		if (feature_msrs[i] == index)
			return index != MSR_UCODE_REVISION;
	return 0;
}

int msr_feature(uint32_t index, uint64_t *value)
{
	*value = 0;
	switch (index) {
	case MSR_UCODE_REVISION:
		*value = cpuid_host_is_amd() ? UINT64_C(0x01000065) : UINT64_C(1) << 32;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*value = ARCH_SUPPORTED;
		return 0;
	case MSR_PERF_CAPABILITIES:
		return 0; /* no counters */
	case MSR_PLATFORM_INFO:
		*value = PLATFORM_INFO_FAULTING;
		return 0;
	case MSR_AMD_DE_CFG:
		if (!cpuid_host_is_amd())
			return -ENOENT;
		*value = DE_CFG_LFENCE;
		return 0;
	default:
		return -ENOENT;
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
	return copy_msr_list(call, feature_msrs, FEATURE_COUNT - !cpuid_host_is_amd());
}

/* KVM's limit on one call. */
#define MSR_BATCH 256u

static int feature_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	uint64_t value = 0;
	int error = msr_feature(entry->index, &value);

	(void)vcpu;
	entry->data = value;
	return msr_settle_unknown(MSR_FROM_CLIENT, MSR_ACCESS_READ, entry->index, value, error);
}

static int read_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	uint64_t value = 0;
	int error = msr_read(vcpu, MSR_FROM_CLIENT, entry->index, &value);

	entry->data = value;
	return error;
}

/* What a feature's MSR says is fixed once the guest has run; saying it again is no change. */
static int write_one(struct vcpu *vcpu, struct kvm_msr_entry *entry)
{
	uint64_t now;

	if (vcpu->has_run && msr_is_fixed_feature(entry->index) &&
	    (msr_read(vcpu, MSR_FROM_CLIENT, entry->index, &now) || now != entry->data))
		return -EINVAL;
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
	entries = process_heap_alloc(size_bytes + 1);
	if (!entries)
		return -ENOMEM;
	if (user_copy_in(entries, user, size_bytes)) {
		process_heap_free(entries);
		return -EFAULT;
	}
	while (done < header->nmsrs && !one(call->object, &entries[done]))
		done++;
	if (back && user_copy_out(user, entries, size_bytes))
		done = -EFAULT;
	process_heap_free(entries);
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
