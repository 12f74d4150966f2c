/* Capabilities: what KVM_CHECK_EXTENSION says, and what KVM_ENABLE_CAP turns on. */
#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <quire/dirty.h>

#include "frontend/object/system.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/gmem_file.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/nested_state.h"
#include "frontend/uapi.h"
#include "hosts/process/lock.h"

#define HC_MAP_GPA_RANGE_MASK (UINT64_C(1) << 12)
#define CLOCK_FLAGS (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)
#define X2APIC_FLAGS (UAPI_X2APIC_USE_32BIT_IDS | UAPI_X2APIC_NO_BROADCAST_QUIRK)
#define GUEST_DEBUG_FLAGS                                                           \
	(KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_SW_BP |   \
	 KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP | \
	 KVM_GUESTDBG_BLOCKIRQ)
/* The quirks whose absence changes anything here. */
#define KNOWN_QUIRKS                                                               \
	((uint64_t)KVM_X86_QUIRK_LINT0_REENABLED | KVM_X86_QUIRK_LAPIC_MMIO_HOLE | \
	 KVM_X86_QUIRK_SLOT_ZAP_ALL | KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT |        \
	 KVM_X86_QUIRK_FIX_HYPERCALL_INSN | KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT |   \
	 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS | UAPI_QUIRK_STUFF_FEATURE_MSRS)
/* APERF and MPERF, which a client might also let through, are not there. */
#define DISABLED_EXITS                                                                           \
	(KVM_X86_DISABLE_EXITS_MWAIT | KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE | \
	 KVM_X86_DISABLE_EXITS_CSTATE)

struct capability {
	uint32_t number;
	uint32_t value;
};

/* Reported with one value everywhere. Only what works stands here: clients turn on what they see.
 */
static const struct capability fixed_caps[] = {
    {KVM_CAP_IRQCHIP, 1},
    {KVM_CAP_HLT, 1},
    {KVM_CAP_MMU_SHADOW_CACHE_CONTROL, 1},
    {KVM_CAP_USER_MEMORY, 1},
    {KVM_CAP_SET_TSS_ADDR, 1},
    {KVM_CAP_VAPIC, 1},
    {KVM_CAP_EXT_CPUID, 1},
    {KVM_CAP_CLOCKSOURCE, 1},
    {KVM_CAP_NR_MEMSLOTS, QUIRE_USER_SLOTS},
    {KVM_CAP_PIT, 1},
    {KVM_CAP_NOP_IO_DELAY, 1},
    {KVM_CAP_MP_STATE, 1},
    {KVM_CAP_COALESCED_MMIO, VCPU_COALESCED_PAGE},
    {KVM_CAP_SYNC_MMU, 1},
    {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 1},
    {KVM_CAP_USER_NMI, 1},
    {KVM_CAP_IRQ_ROUTING, IRQ_ROUTES_MAX},
    {KVM_CAP_REINJECT_CONTROL, 1},
    {KVM_CAP_IRQ_INJECT_STATUS, 1},
    {KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 1},
    {KVM_CAP_MCE, 32},
    {KVM_CAP_PIT2, 1},
    {KVM_CAP_PIT_STATE2, 1},
    {KVM_CAP_IOEVENTFD, 1},
    {KVM_CAP_IRQFD, 1},
    {KVM_CAP_IRQFD_RESAMPLE, 1},
    {KVM_CAP_VCPU_ATTRIBUTES, 1},
    {KVM_CAP_X86_USER_SPACE_MSR, 1},
    {KVM_CAP_X86_MSR_FILTER, 1},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, 1},
    {KVM_CAP_ADJUST_CLOCK, CLOCK_FLAGS},
    {KVM_CAP_ASYNC_PF, 1},
    {KVM_CAP_ASYNC_PF_INT, 1},
    {KVM_CAP_INTERNAL_ERROR_DATA, 1},
    {KVM_CAP_VCPU_EVENTS, 1},
    {KVM_CAP_PCI_SEGMENT, 1},
    {KVM_CAP_ENABLE_CAP, 1},
    {KVM_CAP_DEBUGREGS, 1},
    {KVM_CAP_X86_ROBUST_SINGLESTEP, 1},
    {KVM_CAP_SET_GUEST_DEBUG, 1},
    {KVM_CAP_SET_GUEST_DEBUG2, GUEST_DEBUG_FLAGS},
    {KVM_CAP_XSAVE, 1},
    {KVM_CAP_XSAVE2, sizeof(struct kvm_xsave)},
    {KVM_CAP_SREGS2, 1},
    {KVM_CAP_XCRS, 1},
    {KVM_CAP_GET_TSC_KHZ, 1},
    {KVM_CAP_TSC_DEADLINE_TIMER, 1},
    {KVM_CAP_KVMCLOCK_CTRL, 1},
    {KVM_CAP_EXT_EMUL_CPUID, 1},
    {KVM_CAP_IOAPIC_POLARITY_IGNORED, 1},
    {KVM_CAP_DISABLE_QUIRKS, 1},
    {KVM_CAP_X86_DISABLE_EXITS, DISABLED_EXITS},
    {KVM_CAP_HALT_POLL, 1},
    {KVM_CAP_LAST_CPU, 1},
    {KVM_CAP_SYS_ATTRIBUTES, 1},
    {KVM_CAP_X86_SMM, 1},
    {KVM_CAP_X86_GUEST_MODE, 1},
    {KVM_CAP_SIGNAL_MSI, 1},
    {KVM_CAP_DEVICE_CTRL, 1},
    {KVM_CAP_READONLY_MEM, 1},
    {KVM_CAP_SPLIT_IRQCHIP, 1},
    {KVM_CAP_IOEVENTFD_NO_LENGTH, 1},
    {KVM_CAP_ENABLE_CAP_VM, 1},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, 1},
    {KVM_CAP_CHECK_EXTENSION_VM, 1},
    {KVM_CAP_MAX_VCPU_ID, VM_MAX_VCPU_IDS},
    {KVM_CAP_X2APIC_API, X2APIC_FLAGS},
    {KVM_CAP_IMMEDIATE_EXIT, 1},
    {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS},
    {KVM_CAP_GET_MSR_FEATURES, 1},
    {KVM_CAP_COALESCED_PIO, 1},
    {KVM_CAP_EXCEPTION_PAYLOAD, 1},
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3},
    {KVM_CAP_SET_BOOT_CPU_ID, 1},
    {KVM_CAP_DIRTY_LOG_RING, QUIRE_RING_BYTES_MAX},
    {KVM_CAP_EXIT_HYPERCALL, HC_MAP_GPA_RANGE_MASK},
    {KVM_CAP_BINARY_STATS_FD, 1},
    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1},
    {KVM_CAP_DISABLE_QUIRKS2, KNOWN_QUIRKS},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1},
    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1},
    {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, QUIRE_RING_BYTES_MAX},
    {KVM_CAP_USER_MEMORY2, 1},
    {KVM_CAP_MEMORY_FAULT_INFO, 1},
    {KVM_CAP_GUEST_MEMFD, 1},
    {KVM_CAP_MSR_PLATFORM_INFO, 1},
    {KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1},
    {KVM_CAP_X86_APIC_BUS_CYCLES_NS, VM_APIC_CYCLE_NS},
};

/* The same for a VM as for all of them; what is not fixed follows the module parameters. */
static long common_value(uint64_t capability)
{
	switch (capability) {
	case KVM_CAP_NR_VCPUS:
	case KVM_CAP_MAX_VCPUS:
		return vm_max_vcpus();
	case KVM_CAP_VM_TYPES:
		return system_vm_types();
	case KVM_CAP_PRE_FAULT_MEMORY:
		return system_has_tdp();
	case KVM_CAP_NESTED_STATE:
		return nested_state_size();
	case KVM_CAP_STEAL_TIME:
		return steal_time_is_offered();
	default:
		break;
	}
	for (size_t i = 0; i < sizeof(fixed_caps) / sizeof(fixed_caps[0]); i++)
		if (fixed_caps[i].number == capability)
			return fixed_caps[i].value;
	return 0;
}

static bool files_own_attributes(void)
{
	return params_get_bool("kvm.gmem_in_place_conversion");
}

long caps_check_system(uint64_t capability)
{
	if (params_hides_cap(capability))
		return 0;
	switch (capability) {
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		return QUIRE_AS_MAX;
	case KVM_CAP_MEMORY_ATTRIBUTES:
		return files_own_attributes() ? 0 : QUIRE_ATTRIBUTE_PRIVATE;
	case KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES:
		return files_own_attributes() ? QUIRE_ATTRIBUTE_PRIVATE : 0;
	case KVM_CAP_GUEST_MEMFD_FLAGS:
		return QUIRE_GMEM_MMAP | QUIRE_GMEM_INIT_SHARED;
	default:
		return common_value(capability);
	}
}

long vm_check_extension(struct ioctl_call *call)
{
	struct vm *vm = call->object;

	if (params_hides_cap(call->argument))
		return 0;
	switch (call->argument) {
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		return quire_vm_address_spaces(vm->memory);
	case KVM_CAP_MEMORY_ATTRIBUTES:
		return (long)quire_vm_attributes(vm->memory);
	case KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES:
		return (long)quire_gmem_attributes(vm->memory);
	case KVM_CAP_GUEST_MEMFD_FLAGS:
		return (long)gmem_file_flags(vm);
	case KVM_CAP_X86_APIC_BUS_CYCLES_NS:
		return vm->settings.apic_cycle_ns;
	case KVM_CAP_MAX_VCPU_ID:
		return VM_MAX_VCPU_IDS;
	default:
		return common_value(call->argument);
	}
}

/* Each of these is called with vm.lock held. */
static long enable_manual_protect(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->flags)
		return -EINVAL;
	return quire_vm_set_manual_protect(vm->memory, cap->args[0]);
}

static long enable_dirty_ring(struct vm *vm, const struct kvm_enable_cap *cap)
{
	return quire_vm_enable_dirty_ring(vm->memory, cap->args[0]);
}

static long enable_exit_hypercall(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->args[0] & ~HC_MAP_GPA_RANGE_MASK)
		return -EINVAL;
	atomic_store(&vm->settings.exit_hypercalls, cap->args[0]);
	return 0;
}

/* The older form passes over what it does not know. */
static long disable_quirks(struct vm *vm, const struct kvm_enable_cap *cap)
{
	atomic_fetch_or(&vm->settings.disabled_quirks, cap->args[0] & KNOWN_QUIRKS);
	if (cap->args[0] & KVM_X86_QUIRK_SLOT_ZAP_ALL)
		quire_vm_set_slot_zap_all(vm->memory, 0);
	return 0;
}

static long disable_quirks2(struct vm *vm, const struct kvm_enable_cap *cap)
{
	return cap->args[0] & ~KNOWN_QUIRKS ? -EINVAL : disable_quirks(vm, cap);
}

/*
 * PAUSE and MWAIT end no run of the CPU anyway, and there are no C-states to count. What is left is
 * HLT, in which the vCPU then sleeps by itself.
 */
static long disable_exits(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if ((cap->args[0] & ~(uint64_t)DISABLED_EXITS) || atomic_load(&vm->vcpu_count))
		return -EINVAL;
	atomic_fetch_or(&vm->settings.disabled_exits, (unsigned int)cap->args[0]);
	return 0;
}

/* For how long a halted vCPU may poll: it does not, which is within any bound. */
static long set_halt_poll(struct vm *vm, const struct kvm_enable_cap *cap)
{
	(void)vm;
	return cap->flags || cap->args[0] > UINT32_MAX ? -EINVAL : 0;
}

static long enable_split_irqchip(struct vm *vm, const struct kvm_enable_cap *cap)
{
	return irqchip_split_locked(vm, cap->args[0]);
}

static long enable_x2apic_api(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->args[0] & ~X2APIC_FLAGS)
		return -EINVAL;
	if (cap->args[0] & UAPI_X2APIC_USE_32BIT_IDS)
		atomic_store(&vm->settings.x2apic_32bit_ids, true);
	if (cap->args[0] & UAPI_X2APIC_NO_BROADCAST_QUIRK)
		atomic_store(&vm->settings.x2apic_no_broadcast_quirk, true);
	return 0;
}

static long enable_max_vcpu_id(struct vm *vm, const struct kvm_enable_cap *cap)
{
	uint32_t now = vm->settings.max_vcpu_ids;

	if (cap->args[0] > VM_MAX_VCPU_IDS || vm->settings.boot_vcpu_id > cap->args[0])
		return -EINVAL;
	if (now && now != cap->args[0])
		return -EINVAL;
	vm->settings.max_vcpu_ids = (uint32_t)cap->args[0];
	return 0;
}

static long enable_exception_payload(struct vm *vm, const struct kvm_enable_cap *cap)
{
	atomic_store(&vm->settings.exception_payload, cap->args[0] != 0);
	return 0;
}

static long enable_user_space_msr(struct vm *vm, const struct kvm_enable_cap *cap)
{
	uint64_t known =
	    KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;

	if (cap->args[0] & ~known)
		return -EINVAL;
	atomic_store(&vm->settings.msr_exits, (unsigned int)cap->args[0]);
	return 0;
}

static long enable_triple_fault_event(struct vm *vm, const struct kvm_enable_cap *cap)
{
	atomic_store(&vm->settings.triple_fault_event, cap->args[0] != 0);
	return 0;
}

static long enable_exit_on_emulation_failure(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->args[0] & ~UINT64_C(1))
		return -EINVAL;
	atomic_store(&vm->settings.exit_on_emulation_failure, cap->args[0] != 0);
	return 0;
}

static int may_reboot(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	memset(data, 0, sizeof(data));
	if (syscall(SYS_capget, &header, data))
		return 0;
	return (data[0].effective >> CAP_SYS_BOOT) & 1;
}

static long disable_nx_huge_pages(struct vm *vm, const struct kvm_enable_cap *cap)
{
	if (cap->flags)
		return -EINVAL;
	if (!may_reboot())
		return -EPERM;
	if (cap->args[0] || atomic_load(&vm->vcpu_count))
		return -EINVAL;
	atomic_store(&vm->nx.disabled, true);
	quire_vm_set_nx_huge_pages(vm->memory, 0);
	return 0;
}

static long enable_platform_info(struct vm *vm, const struct kvm_enable_cap *cap)
{
	atomic_store(&vm->settings.hide_platform_info, !cap->args[0]);
	return 0;
}

static long set_apic_cycle(struct vm *vm, const struct kvm_enable_cap *cap)
{
	uint64_t longest_ns;

	/* The longest count, at the slowest of the timer's rates. */
	if (!cap->args[0] ||
	    __builtin_mul_overflow(UINT64_C(128) * UINT32_MAX, (uint64_t)cap->args[0], &longest_ns))
		return -EINVAL;
	if (!irqchip_has_lapic(&vm->irqchip))
		return -ENXIO;
	if (atomic_load(&vm->vcpu_count))
		return -EINVAL;
	vm->settings.apic_cycle_ns = (uint32_t)cap->args[0];
	return 0;
}

static const struct {
	uint32_t number;
	bool takes_flags; /* otherwise flags must be zero */
	long (*enable)(struct vm *vm, const struct kvm_enable_cap *cap);
} enablers[] = {
    {KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, true, enable_manual_protect},
    {KVM_CAP_DIRTY_LOG_RING, true, enable_dirty_ring},
    {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, true, enable_dirty_ring},
    {KVM_CAP_EXIT_HYPERCALL, false, enable_exit_hypercall},
    {KVM_CAP_DISABLE_QUIRKS, false, disable_quirks},
    {KVM_CAP_DISABLE_QUIRKS2, false, disable_quirks2},
    {KVM_CAP_X86_DISABLE_EXITS, false, disable_exits},
    {KVM_CAP_HALT_POLL, true, set_halt_poll},
    {KVM_CAP_SPLIT_IRQCHIP, false, enable_split_irqchip},
    {KVM_CAP_X2APIC_API, false, enable_x2apic_api},
    {KVM_CAP_MAX_VCPU_ID, false, enable_max_vcpu_id},
    {KVM_CAP_EXCEPTION_PAYLOAD, false, enable_exception_payload},
    {KVM_CAP_X86_TRIPLE_FAULT_EVENT, false, enable_triple_fault_event},
    {KVM_CAP_X86_USER_SPACE_MSR, false, enable_user_space_msr},
    {KVM_CAP_EXIT_ON_EMULATION_FAILURE, false, enable_exit_on_emulation_failure},
    {KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, true, disable_nx_huge_pages},
    {KVM_CAP_MSR_PLATFORM_INFO, false, enable_platform_info},
    {KVM_CAP_X86_APIC_BUS_CYCLES_NS, false, set_apic_cycle},
};

long vcpu_enable_cap(struct ioctl_call *call)
{
	const struct kvm_enable_cap *cap = call->data;
	struct vcpu *vcpu = call->object;

	if (cap->flags || cap->cap != KVM_CAP_ENFORCE_PV_FEATURE_CPUID ||
	    params_hides_cap(cap->cap))
		return -EINVAL;
	vcpu->enforce_pv = cap->args[0] != 0;
	return 0;
}

long vm_enable_cap(struct ioctl_call *call)
{
	const struct kvm_enable_cap *cap = call->data;
	struct vm *vm = call->object;
	long result = -EINVAL;

	if (params_hides_cap(cap->cap))
		return -EINVAL;
	for (size_t i = 0; i < sizeof(enablers) / sizeof(enablers[0]); i++) {
		if (enablers[i].number != cap->cap)
			continue;
		if (cap->flags && !enablers[i].takes_flags)
			return -EINVAL;
		process_lock_acquire(&vm->lock);
		result = enablers[i].enable(vm, cap);
		process_lock_release(&vm->lock);
	}
	return result;
}
