/* /dev/kvm itself: its ioctls, and the ties between VMs and the rest of the process. */
#include "frontend/object/system.h"

#include <errno.h>
#include <fcntl.h>

#include <quire/platform.h>
#include <quire/vm.h>

#include "frontend/file/user_copy.h"
#include "frontend/object/dispatch.h"
#include "frontend/object/mm_events.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/state/cpuid.h"
#include "frontend/state/msr_lists.h"
#include "frontend/state/msr_mce.h"
#include "frontend/uapi.h"
#include "vcpu/arch.h"

int system_remember_vm(struct vm *vm)
{
	/* Forgotten in any case. */
	params_count_vm(1);
	return mm_events_register_vm(vm->memory);
}

void system_forget_vm(struct vm *vm)
{
	mm_events_unregister_vm(vm->memory);
	params_count_vm(-1);
}

/* The other vendor's parameter is not there. */
int system_has_tdp(void)
{
	return params_get_bool("kvm_amd.npt") || params_get_bool("kvm_intel.ept");
}

static enum quire_mmu mmu_of_guests(void)
{
	return params_get_bool("kvm.tdp_mmu") && system_has_tdp() ? QUIRE_MMU_TDP
								  : QUIRE_MMU_SHADOW;
}

/* Without A and D only Intel's processors are; on another vendor's machine there is no .eptad. */
static enum quire_format_id format_of_tables(void)
{
	if (params_get_bool("kvm_intel.ept") && !params_get_bool("kvm_intel.eptad"))
		return QUIRE_FORMAT_EPT_NO_AD;
	return params_get_bool("kvm.quire_ept") ? QUIRE_FORMAT_EPT : QUIRE_FORMAT_NPT;
}

uint32_t system_vm_types(void)
{
	uint32_t types = 1u << QUIRE_VM_DEFAULT;

	return mmu_of_guests() == QUIRE_MMU_TDP ? types | 1u << QUIRE_VM_SW_PROTECTED : types;
}

void system_configure_vm(struct quire_vm_config *config)
{
	config->mmio_caching = params_get_bool("kvm.mmio_caching");
	config->tunables = params_tunables();
	config->mmu = mmu_of_guests();
	config->gmem_in_place_conversion = params_get_bool("kvm.gmem_in_place_conversion");
	config->format = format_of_tables();
}

static long get_api_version(struct ioctl_call *call)
{
	return call->argument ? -EINVAL : KVM_API_VERSION;
}

static long create_vm(struct ioctl_call *call)
{
	return vm_create(call->argument);
}

static long check_extension(struct ioctl_call *call)
{
	return caps_check_system(call->argument);
}

static long get_vcpu_mmap_size(struct ioctl_call *call)
{
	return call->argument ? -EINVAL : (long)VCPU_MMAP_BYTES;
}

/* Of the state components, which KVM can save and restore for a guest. */
static long has_attr(struct ioctl_call *call)
{
	const struct kvm_device_attr *attr = call->data;

	return attr->group || attr->attr != KVM_X86_XCOMP_GUEST_SUPP ? -ENXIO : 0;
}

static long get_attr(struct ioctl_call *call)
{
	const struct kvm_device_attr *attr = call->data;
	uint64_t components = cpuid_supported_xcr0();
	long error = has_attr(call);

	return error ? error : user_copy_out(attr->addr, &components, sizeof(components));
}

static const struct ioctl_entry system_ioctls[] = {
    {KVM_GET_API_VERSION, IOCTL_VALUE, get_api_version},
    {KVM_CREATE_VM, IOCTL_VALUE, create_vm},
    {KVM_CHECK_EXTENSION, IOCTL_VALUE, check_extension},
    {KVM_GET_VCPU_MMAP_SIZE, IOCTL_VALUE, get_vcpu_mmap_size},
    {KVM_GET_SUPPORTED_CPUID, IOCTL_IN_OUT, system_get_supported_cpuid},
    {KVM_GET_EMULATED_CPUID, IOCTL_IN_OUT, system_get_emulated_cpuid},
    {KVM_GET_MSR_INDEX_LIST, IOCTL_IN_OUT_ALWAYS, system_get_msr_list},
    {KVM_GET_MSR_FEATURE_INDEX_LIST, IOCTL_IN_OUT_ALWAYS, system_get_msr_feature_list},
    {KVM_GET_MSRS, IOCTL_IN, system_get_msrs},
    {KVM_X86_GET_MCE_CAP_SUPPORTED, IOCTL_OUT, system_get_mce_cap},
    {KVM_HAS_DEVICE_ATTR, IOCTL_IN, has_attr},
    {KVM_GET_DEVICE_ATTR, IOCTL_IN, get_attr},
};

static const struct ioctl_table system_table = {
    .entries = system_ioctls,
    .count = sizeof(system_ioctls) / sizeof(system_ioctls[0]),
    .unknown = -EINVAL, /* x86 answers so on /dev/kvm, unlike on a VM */
};

long system_use(unsigned int command, unsigned long argument)
{
	struct ioctl_call call = {.argument = argument, .command = command};

	return ioctl_dispatch(&system_table, &call);
}

static long system_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	(void)file;
	return system_use((unsigned int)command, argument);
}

static const struct file_ops system_file_ops = {
    .kind = FILE_KVM,
    .name = SYSTEM_FILE_NAME,
    .ioctl = system_ioctl,
};

int system_open(int flags)
{
	struct file_config config = {
	    .ops = &system_file_ops,
	    .cloexec = (flags & O_CLOEXEC) != 0,
	};

	return file_create(&config);
}
