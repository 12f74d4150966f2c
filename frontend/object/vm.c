/* VM objects: their birth, their end, and the table of their ioctls. */
#include "frontend/object/vm.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "frontend/object/failure.h"
#include "frontend/object/system.h"
#include "frontend/object/vcpu.h"
#include "frontend/param/params.h"
#include "frontend/report/report.h"
#include "frontend/report/stats_file.h"
#include "frontend/state/clock.h"
#include "frontend/state/cpuid.h"
#include "frontend/uapi.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "sanitize/dirty.h"
#include "sanitize/slot.h"

void vm_get(struct vm *vm)
{
	atomic_fetch_add_explicit(&vm->refs, 1, memory_order_relaxed);
}

int vm_try_get(struct vm *vm)
{
	int refs = atomic_load(&vm->refs);

	while (refs && !atomic_compare_exchange_weak(&vm->refs, &refs, refs + 1))
		;
	return refs;
}

static void vm_destroy(struct vm *vm)
{
	nx_recovery_forget(vm);
	sanitize_log_end_vm(vm);
	report_vm_ended(vm);
	irqfds_destroy(vm);
	vm_timers_destroy(&vm->timers);
	split_ahead_destroy(vm);
	for (uint32_t i = 0; i < atomic_load(&vm->vcpu_count); i++)
		vcpu_destroy(vm->vcpus[i]);
	system_forget_vm(vm);
	iobus_destroy(&vm->bus);
	irqchip_destroy(&vm->irqchip);
	msr_filter_destroy(&vm->msr_filter);
	quire_vm_put(vm->memory);
	sanitize_forget_vm(&vm->host);
	if (vm->host.pinned)
		process_platform.report("pages of the client are pinned at the end of their VM");
	process_heap_free(vm);
}

void vm_put(struct vm *vm)
{
	if (atomic_fetch_sub_explicit(&vm->refs, 1, memory_order_acq_rel) == 1)
		vm_destroy(vm);
}

struct vcpu *vm_find_vcpu(struct vm *vm, uint32_t id)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);

	if (id < count && vm->vcpus[id]->id == id)
		return vm->vcpus[id];
	for (uint32_t i = 0; i < count; i++)
		if (vm->vcpus[i]->id == id)
			return vm->vcpus[i];
	return NULL;
}

/* The host port where a sanitizer wants to know what the guest touches. */
static struct quire_host_ops watched_host_ops;

static int watched_page_get(void *ctx, hva_t hva, uint32_t flags, struct quire_page *page)
{
	int error;

	sanitize_slot_touch(ctx, hva.v);
	error = process_host_ops.page_get(ctx, hva, flags, page);
	if (error == -EFAULT)
		sanitize_slot_missing(ctx, hva.v);
	return error;
}

static void watch_host_once(void)
{
	watched_host_ops = process_host_ops;
	watched_host_ops.page_get = watched_page_get;
}

static const struct quire_host_ops *host_ops(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (!sanitize_is_on(SANITIZE_SLOT))
		return &process_host_ops;
	pthread_once(&once, watch_host_once);
	return &watched_host_ops;
}

static int create_memory(struct vm *vm)
{
	struct quire_vm_config config = {
	    .type = vm->type,
	    .maxphyaddr = CPUID_MAXPHYADDR,
	    .host = host_ops(),
	    .host_ctx = &vm->host,
	};

	system_configure_vm(&config);
	return quire_vm_create(&config, &vm->memory);
}

static struct vm *vm_alloc(enum quire_vm_type type, int *error)
{
	struct vm *vm = process_heap_alloc(sizeof(*vm));

	*error = -ENOMEM;
	if (!vm)
		return NULL;
	atomic_init(&vm->refs, 1);
	vm->owner = getpid();
	vm->type = type;
	vm->settings.apic_cycle_ns = VM_APIC_CYCLE_NS;
	vm->tsc_offset = 0 - clock_tsc();
	atomic_init(&vm->clock_offset_ns, -(int64_t)timers_now_ns());
	vm->lock = (struct process_lock){0};
	iobus_init(&vm->bus);
	irqchip_init(&vm->irqchip);
	msr_filter_init(&vm->msr_filter);
	vm_timers_init(&vm->timers);
	async_pf_init_vm(vm);
	*error = irqfds_prepare();
	if (!*error)
		*error = nx_recovery_prepare(vm);
	if (!*error)
		*error = create_memory(vm);
	if (!*error) {
		split_ahead_init(vm);
		nx_recovery_init(vm);
		/* A parameter that is written from here on finds the VM. */
		split_ahead_poll(vm);
		return vm;
	}
	vm_timers_destroy(&vm->timers);
	iobus_destroy(&vm->bus);
	irqchip_destroy(&vm->irqchip);
	msr_filter_destroy(&vm->msr_filter);
	process_heap_free(vm);
	return NULL;
}

/* Lockstep takes the interpreter's stores back, which another vCPU would see. */
uint32_t vm_max_vcpus(void)
{
	return params_get_bool("kvm.quire_lockstep") ? 1 : VM_MAX_VCPUS;
}

long vm_create(uint64_t type)
{
	struct file_config config = {.ops = &vm_file_ops, .cloexec = true};
	struct vm *vm;
	int error, fd;

	if (type >= 32 || !(system_vm_types() >> type & 1))
		return -EINVAL;
	/* These begin threads: before its first VM a client may rely on having only its own. */
	failure_watch_start();
	report_start();
	vm = vm_alloc((enum quire_vm_type)type, &error);
	if (!vm)
		return error;
	error = system_remember_vm(vm);
	if (error) {
		vm_put(vm);
		return error;
	}
	report_vm_created(vm);
	config.object = vm;
	fd = file_create(&config);
	if (fd < 0)
		vm_put(vm);
	return fd;
}

static long create_vcpu(struct ioctl_call *call)
{
	if (call->argument >= VM_MAX_VCPU_IDS)
		return -EINVAL;
	return vcpu_create(call->object, (uint32_t)call->argument);
}

static long set_tss_addr(struct ioctl_call *call)
{
	/* The address is for real-mode guests on processors that need help with them. */
	return call->argument > UINT32_MAX - 3 * 4096 + 1 ? -EINVAL : 0;
}

static long set_identity_map_addr(struct ioctl_call *call)
{
	struct vm *vm = call->object;

	return atomic_load(&vm->vcpu_count) ? -EINVAL : 0;
}

/* There is no kind of device here: CAVEATS.md says why not VFIO's, the only one of x86. */
static long create_device(struct ioctl_call *call)
{
	(void)call;
	return -ENODEV;
}

static const struct ioctl_entry vm_ioctls[] = {
    {KVM_CREATE_VCPU, IOCTL_VALUE, create_vcpu},
    {KVM_CHECK_EXTENSION, IOCTL_VALUE, vm_check_extension},
    {KVM_ENABLE_CAP, IOCTL_IN, vm_enable_cap},
    {KVM_SET_USER_MEMORY_REGION, IOCTL_IN, vm_set_region},
    {KVM_SET_USER_MEMORY_REGION2, IOCTL_IN, vm_set_region2},
    {KVM_SET_MEMORY_ATTRIBUTES, IOCTL_IN, vm_set_attributes},
    {KVM_CREATE_GUEST_MEMFD, IOCTL_IN, vm_create_gmem},
    {KVM_LINK_GUEST_MEMFD, IOCTL_VALUE, vm_link_gmem},
    {KVM_GET_DIRTY_LOG, IOCTL_IN, vm_get_dirty_log},
    {KVM_CLEAR_DIRTY_LOG, IOCTL_IN, vm_clear_dirty_log},
    {KVM_RESET_DIRTY_RINGS, IOCTL_VALUE, vm_reset_dirty_rings},
    {KVM_SET_NR_MMU_PAGES, IOCTL_VALUE, vm_set_nr_mmu_pages},
    {KVM_REGISTER_COALESCED_MMIO, IOCTL_IN, coalesced_register},
    {KVM_UNREGISTER_COALESCED_MMIO, IOCTL_IN, coalesced_unregister},
    {KVM_IOEVENTFD, IOCTL_IN, ioeventfd_ioctl},
    {KVM_IRQFD, IOCTL_IN, vm_irqfd},
    {KVM_CREATE_IRQCHIP, IOCTL_VALUE, vm_create_irqchip},
    {KVM_GET_IRQCHIP, IOCTL_IN_OUT, vm_get_irqchip},
    {KVM_SET_IRQCHIP, IOCTL_IN, vm_set_irqchip},
    {KVM_IRQ_LINE, IOCTL_IN, vm_irq_line},
    {KVM_IRQ_LINE_STATUS, IOCTL_IN_OUT, vm_irq_line_status},
    {KVM_SET_GSI_ROUTING, IOCTL_IN, vm_set_gsi_routing},
    {KVM_CREATE_DEVICE, IOCTL_IN_OUT, create_device},
    {KVM_CREATE_PIT, IOCTL_VALUE, vm_create_pit},
    {KVM_CREATE_PIT2, IOCTL_IN, vm_create_pit2},
    {KVM_GET_PIT, IOCTL_IN_OUT, vm_get_pit},
    {KVM_SET_PIT, IOCTL_IN, vm_set_pit},
    {KVM_GET_PIT2, IOCTL_OUT, vm_get_pit2},
    {KVM_SET_PIT2, IOCTL_IN, vm_set_pit2},
    {KVM_REINJECT_CONTROL, IOCTL_VALUE, vm_reinject_control},
    {KVM_SIGNAL_MSI, IOCTL_IN, vm_signal_msi},
    {KVM_X86_SET_MSR_FILTER, IOCTL_IN, vm_set_msr_filter},
    {KVM_SET_BOOT_CPU_ID, IOCTL_VALUE, vm_set_boot_cpu_id},
    {KVM_SET_TSS_ADDR, IOCTL_VALUE, set_tss_addr},
    {KVM_SET_IDENTITY_MAP_ADDR, IOCTL_IN, set_identity_map_addr},
    {KVM_GET_CLOCK, IOCTL_OUT, vm_get_clock},
    {KVM_SET_CLOCK, IOCTL_IN, vm_set_clock},
    {KVM_GET_TSC_KHZ, IOCTL_VALUE, vm_get_tsc_khz},
    {KVM_SET_TSC_KHZ, IOCTL_VALUE, vm_set_tsc_khz},
    {KVM_GET_STATS_FD, IOCTL_VALUE, vm_get_stats_fd},
};

static const struct ioctl_table vm_table = {
    .entries = vm_ioctls,
    .count = sizeof(vm_ioctls) / sizeof(vm_ioctls[0]),
    .unknown = -ENOTTY,
};

static long vm_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	struct vm *vm = file_object(file);
	struct ioctl_call call = {
	    .file = file,
	    .object = vm,
	    .argument = argument,
	    .command = (uint32_t)command,
	};

	if (!file_is_own(file) || quire_vm_is_dead(vm->memory))
		return -EIO;
	return ioctl_dispatch(&vm_table, &call);
}

static void vm_release(struct file *file)
{
	vm_put(file_object(file));
}

const struct file_ops vm_file_ops = {
    .kind = FILE_VM,
    .name = "kvm-vm",
    .ioctl = vm_ioctl,
    .release = vm_release,
};
