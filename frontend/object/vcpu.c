/* vCPU objects: birth, reset, end, and the table of their ioctls. */
#include "frontend/object/vcpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <quire/dirty.h>
#include <quire/place.h>

#include "frontend/object/system.h"
#include "frontend/object/vcpu_misc.h"
#include "frontend/object/vm.h"
#include "frontend/param/params.h"
#include "frontend/report/stats_file.h"
#include "frontend/run/signal_actions.h"
#include "frontend/state/clock.h"
#include "frontend/state/cpuid.h"
#include "frontend/state/msr_lists.h"
#include "frontend/state/msr_mce.h"
#include "frontend/state/nested_state.h"
#include "hosts/process/heap.h"
#include "hosts/process/lock.h"
#include "hosts/process/sys.h"
#include "sanitize/report.h"
#include "vcpu/decode/decoder.h"
#include "vcpu/svm/nested.h"

/* How often a block runs in the interpreter before it becomes code. */
#define TRANSLATE_AFTER 16u
#define RESET_SMBASE 0x30000u

void vcpu_raise(struct vcpu *vcpu, enum vcpu_event event)
{
	if (event == VCPU_EVENT_NMI)
		atomic_fetch_add(&vcpu->nmis, 1);
	atomic_fetch_or_explicit(&vcpu->events, event, memory_order_release);
	vcpu_wake(vcpu);
}

void vcpu_wake(struct vcpu *vcpu)
{
	quire_vcpu_request(vcpu->memory, RUN_REQ_EVENT);
	run_signals_wake(vcpu->memory);
}

void vcpu_report_eoi(struct vcpu *vcpu, uint8_t vector)
{
	vcpu->has_ended = true;
	vcpu->ended_vector = vector;
	quire_vcpu_request(vcpu->memory, RUN_REQ_EVENT);
}

static bool is_boot_vcpu(const struct vcpu *vcpu)
{
	return vcpu->id == vcpu->vm->settings.boot_vcpu_id;
}

/* The registers that RESET and INIT both set. */
static void reset_registers(struct vcpu *vcpu, struct cpu_state *state)
{
	uint32_t signature = cpuid_register(vcpu, 1, CPUID_EAX);

	cpu_nested_forget(vcpu->cpu);
	memset(state->gpr, 0, sizeof(state->gpr));
	state->gpr[CPU_RDX] = signature ? signature : 0x600;
	state->rip = 0xfff0;
	state->rflags = 2;
	for (int i = 0; i < CPU_SEGS; i++)
		state->seg[i] =
		    (struct cpu_segment){.limit = 0xffff, .type = 3, .s = 1, .present = 1};
	state->seg[CPU_CS].selector = 0xf000;
	state->seg[CPU_CS].base = 0xffff0000;
	state->seg[CPU_CS].type = 11;
	state->seg[CPU_TR].type = 11;
	state->seg[CPU_TR].s = 0;
	state->seg[CPU_LDTR].type = 2;
	state->seg[CPU_LDTR].s = 0;
	state->gdt = (struct cpu_table){.limit = 0xffff};
	state->idt = (struct cpu_table){.limit = 0xffff};
	state->cr2 = state->cr3 = state->cr4 = state->efer = 0;
	memset(state->dr, 0, sizeof(state->dr));
	state->dr6 = 0xffff0ff0;
	state->dr7 = 0x400;
}

void vcpu_reset(struct vcpu *vcpu, bool init)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint64_t cache_bits = init ? state->cr0 & 0x60000000 : 0x60000000;

	/* Out of that mode there is always a way. */
	(void)cpu_set_smm(vcpu->cpu, false);
	reset_registers(vcpu, state);
	state->smi_pending = 0;
	state->smi_count = 0;
	state->cr0 = cache_bits | 0x10;
	state->halted = 0;
	state->interrupt_shadow = 0;
	state->nmi_pending = state->nmi_masked = state->nmi_injected = 0;
	state->exception_pending = state->exception_injected = 0;
	state->interrupt_injected = 0;
	if (!init) {
		state->pat = UINT64_C(0x0007040600070406);
		state->pkru = 0;
		state->smbase = RESET_SMBASE;
		state->tsc_offset = vcpu->vm->tsc_offset;
		msr_reset(vcpu);
	}
	async_pf_reset(vcpu);
	cpu_cancel_pending(vcpu->cpu);
	vcpu->pending = VCPU_PENDING_NONE;
	cpu_state_changed(vcpu->cpu);
	if (vcpu->lapic.present) {
		lapic_reset(vcpu, init);
		pv_eoi_reset(vcpu);
	}
}

static void vcpu_free(struct vcpu *vcpu)
{
	run_stop_remove(&vcpu->stop);
	steal_time_destroy(vcpu);
	async_pf_destroy(vcpu);
	if (vcpu->pv_eoi_place)
		quire_place_destroy(vcpu->pv_eoi_place);
	if (vcpu->steal_place)
		quire_place_destroy(vcpu->steal_place);
	if (vcpu->clock_place)
		quire_place_destroy(vcpu->clock_place);
	if (vcpu->cpu)
		cpu_destroy(vcpu->cpu);
	if (vcpu->memory)
		quire_vcpu_destroy(vcpu->memory);
	if (vcpu->ring)
		sys_call(SYS_munmap, sys_address(vcpu->ring), vcpu->ring_bytes);
	process_heap_free(vcpu);
}

void vcpu_destroy(struct vcpu *vcpu)
{
	vcpu_free(vcpu);
}

static struct vcpu *vcpu_alloc(struct vm *vm, uint32_t id, int *error)
{
	struct vcpu *vcpu = process_heap_alloc(sizeof(*vcpu));

	*error = -ENOMEM;
	if (!vcpu)
		return NULL;
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->index = atomic_load(&vm->vcpu_count);
	vcpu->lock = (struct process_lock){0};
	steal_time_init(vcpu);
	*error = quire_vcpu_create(vm->memory, id, &vcpu->runner, &vcpu->memory);
	if (!*error)
		*error = quire_place_create(vcpu->memory, &vcpu->clock_place);
	if (!*error)
		*error = quire_place_create(vcpu->memory, &vcpu->steal_place);
	if (!*error)
		*error = quire_place_create(vcpu->memory, &vcpu->pv_eoi_place);
	if (!*error)
		*error = async_pf_init(vcpu);
	if (*error)
		goto free;
	*error = -ENOMEM;
	vcpu->cpu = cpu_create(vcpu->memory, &vcpu_cpu_ops, vcpu);
	if (!vcpu->cpu)
		goto free;
	if (!system_has_tdp())
		cpu_set_single_stage(vcpu->cpu);
	if (sanitize_is_on(SANITIZE_TLB))
		(void)cpu_watch_tlb(vcpu->cpu);
	else if (params_get_bool("kvm.quire_translate"))
		(void)cpu_translate_after(vcpu->cpu, TRANSLATE_AFTER);
	if (params_get_bool("kvm.quire_lockstep"))
		(void)cpu_translate_lockstep(vcpu->cpu);
	clock_init_vcpu(vcpu);
	lapic_init(vcpu);
	vcpu_reset(vcpu, false);
	vcpu->mp_state = !vcpu->lapic.present || is_boot_vcpu(vcpu) ? KVM_MP_STATE_RUNNABLE
								    : KVM_MP_STATE_UNINITIALIZED;
	vcpu->stop = (struct run_stop){.vcpu = vcpu->memory, .runner = &vcpu->runner};
	run_stop_add(&vcpu->stop);
	signal_continue_take();
	*error = 0;
	return vcpu;
free:
	vcpu_free(vcpu);
	return NULL;
}

/* Map the descriptor's ring once more, for as long as the vCPU lives, and log into it. */
static int map_ring(struct vcpu *vcpu)
{
	char *first = (char *)vcpu->run + VCPU_RING_PAGE * 4096;
	void *ring;

	if (!vcpu->ring_bytes)
		return 0;
	/* An old size of zero duplicates a shared mapping. */
	ring = mremap(first, 0, vcpu->ring_bytes, MREMAP_MAYMOVE);
	if (ring == MAP_FAILED)
		return -ENOMEM;
	vcpu->ring = ring;
	if (madvise(ring, vcpu->ring_bytes, MADV_DONTFORK))
		return -errno;
	return quire_vcpu_set_dirty_ring(vcpu->memory, ring);
}

/*
 * Make the descriptor; from its making on it holds a reference to the VM. The vCPU mutex keeps
 * ioctls out until the run page is known.
 */
static int open_locked(struct vcpu *vcpu)
{
	uint32_t ring_end = VCPU_RING_PAGE * 4096 + vcpu->ring_bytes;
	char name[32];
	struct file_config config = {
	    .ops = &vcpu_file_ops,
	    .object = vcpu,
	    .size_bytes = vcpu->ring_bytes ? ring_end : VCPU_MMAP_BYTES,
	    .cloexec = true,
	    .memory = FILE_MEMORY_MAPPABLE,
	    .name = name,
	};
	struct file *file;
	int fd, error = -EBADF; /* another thread closed what it does not know of */

	snprintf(name, sizeof(name), "kvm-vcpu:%u", vcpu->id);
	vm_get(vcpu->vm);
	fd = file_create(&config);
	if (fd < 0) {
		vm_put(vcpu->vm);
		return fd;
	}
	file = file_get_kind(fd, &vcpu_file_ops);
	if (file) {
		vcpu->run = file_memory(file);
		error = map_ring(vcpu);
		file_put(file);
	}
	if (error) {
		file_close(fd);
		return error;
	}
	return fd;
}

static void adopt_ring(struct vcpu *vcpu)
{
	struct iobus *bus = &vcpu->vm->bus;

	process_lock_acquire(&bus->lock);
	if (!bus->ring && vcpu->run)
		bus->ring = (char *)vcpu->run + VCPU_COALESCED_PAGE * 4096;
	process_lock_release(&bus->lock);
}

static long create_locked(struct vm *vm, uint32_t id)
{
	uint32_t count = atomic_load(&vm->vcpu_count);
	struct vcpu *vcpu;
	int error, fd;

	if (count >= vm_max_vcpus())
		return -EINVAL;
	if (!vm->settings.max_vcpu_ids)
		vm->settings.max_vcpu_ids = VM_MAX_VCPU_IDS;
	if (id >= vm->settings.max_vcpu_ids)
		return -EINVAL;
	if (vm_find_vcpu(vm, id))
		return -EEXIST;
	vcpu = vcpu_alloc(vm, id, &error);
	if (!vcpu)
		return error;
	vcpu->ring_bytes = quire_vm_dirty_ring_bytes(vm->memory);
	process_lock_acquire(&vcpu->lock);
	fd = open_locked(vcpu);
	if (fd >= 0) {
		adopt_ring(vcpu);
		vm->vcpus[count] = vcpu;
		atomic_store_explicit(&vm->vcpu_count, count + 1, memory_order_release);
	}
	process_lock_release(&vcpu->lock);
	if (fd < 0)
		vcpu_free(vcpu);
	return fd;
}

long vcpu_create(struct vm *vm, uint32_t id)
{
	long result = decoder_load();

	if (result)
		return result;
	process_lock_acquire(&vm->lock);
	result = create_locked(vm, id);
	process_lock_release(&vm->lock);
	return result;
}

static const struct ioctl_entry vcpu_ioctls[] = {
    {KVM_RUN, IOCTL_VALUE, vcpu_run},
    {KVM_GET_REGS, IOCTL_OUT, vcpu_get_regs},
    {KVM_SET_REGS, IOCTL_IN, vcpu_set_regs},
    {KVM_GET_SREGS, IOCTL_OUT, vcpu_get_sregs},
    {KVM_SET_SREGS, IOCTL_IN, vcpu_set_sregs},
    {KVM_GET_SREGS2, IOCTL_OUT, vcpu_get_sregs2},
    {KVM_SET_SREGS2, IOCTL_IN, vcpu_set_sregs2},
    {KVM_GET_FPU, IOCTL_OUT, vcpu_get_fpu},
    {KVM_SET_FPU, IOCTL_IN, vcpu_set_fpu},
    {KVM_GET_XSAVE, IOCTL_OUT, vcpu_get_xsave},
    /* No state is larger than the old form. */
    {KVM_GET_XSAVE2, IOCTL_OUT, vcpu_get_xsave},
    {KVM_SET_XSAVE, IOCTL_IN, vcpu_set_xsave},
    {KVM_GET_XCRS, IOCTL_OUT, vcpu_get_xcrs},
    {KVM_SET_XCRS, IOCTL_IN, vcpu_set_xcrs},
    {KVM_GET_DEBUGREGS, IOCTL_OUT, vcpu_get_debugregs},
    {KVM_SET_DEBUGREGS, IOCTL_IN, vcpu_set_debugregs},
    {KVM_GET_MSRS, IOCTL_IN, vcpu_get_msrs},
    {KVM_SET_MSRS, IOCTL_IN, vcpu_set_msrs},
    {KVM_SET_CPUID, IOCTL_IN, vcpu_set_cpuid},
    {KVM_SET_CPUID2, IOCTL_IN, vcpu_set_cpuid2},
    {KVM_GET_CPUID2, IOCTL_IN_OUT, vcpu_get_cpuid2},
    {KVM_GET_MP_STATE, IOCTL_OUT, vcpu_get_mp_state},
    {KVM_SET_MP_STATE, IOCTL_IN, vcpu_set_mp_state},
    {KVM_GET_VCPU_EVENTS, IOCTL_OUT, vcpu_get_events},
    {KVM_SET_VCPU_EVENTS, IOCTL_IN, vcpu_set_events},
    {KVM_GET_LAPIC, IOCTL_OUT, vcpu_get_lapic},
    {KVM_SET_LAPIC, IOCTL_IN, vcpu_set_lapic},
    {KVM_INTERRUPT, IOCTL_IN, vcpu_interrupt},
    {KVM_NMI, IOCTL_VALUE, vcpu_nmi},
    {KVM_SMI, IOCTL_VALUE, vcpu_smi},
    {KVM_TRANSLATE, IOCTL_IN_OUT, vcpu_translate},
    {KVM_SET_SIGNAL_MASK, IOCTL_VALUE, vcpu_set_signal_mask},
    {KVM_SET_GUEST_DEBUG, IOCTL_IN, vcpu_set_guest_debug},
    {KVM_PRE_FAULT_MEMORY, IOCTL_IN_OUT_ALWAYS, vcpu_pre_fault},
    {KVM_GET_TSC_KHZ, IOCTL_VALUE, vcpu_get_tsc_khz},
    {KVM_SET_TSC_KHZ, IOCTL_VALUE, vcpu_set_tsc_khz},
    {KVM_HAS_DEVICE_ATTR, IOCTL_IN, vcpu_has_attr},
    {KVM_GET_DEVICE_ATTR, IOCTL_IN, vcpu_get_attr},
    {KVM_SET_DEVICE_ATTR, IOCTL_IN, vcpu_set_attr},
    {KVM_KVMCLOCK_CTRL, IOCTL_VALUE, vcpu_kvmclock_ctrl},
    {KVM_X86_SETUP_MCE, IOCTL_IN, vcpu_setup_mce},
    {KVM_X86_SET_MCE, IOCTL_IN, vcpu_set_mce},
    {KVM_TPR_ACCESS_REPORTING, IOCTL_IN_OUT, vcpu_tpr_access_reporting},
    {KVM_SET_VAPIC_ADDR, IOCTL_IN, vcpu_set_vapic_addr},
    {KVM_ENABLE_CAP, IOCTL_IN, vcpu_enable_cap},
    {KVM_GET_STATS_FD, IOCTL_VALUE, vcpu_get_stats_fd},
    {KVM_GET_NESTED_STATE, IOCTL_VALUE, vcpu_get_nested_state},
    {KVM_SET_NESTED_STATE, IOCTL_VALUE, vcpu_set_nested_state},
};

static const struct ioctl_table vcpu_table = {
    .entries = vcpu_ioctls,
    .count = sizeof(vcpu_ioctls) / sizeof(vcpu_ioctls[0]),
    .unknown = -EINVAL,
};

static long vcpu_ioctl(struct file *file, unsigned long command, unsigned long argument)
{
	struct vcpu *vcpu = file_object(file);
	struct ioctl_call call = {
	    .file = file,
	    .object = vcpu,
	    .argument = argument,
	    .command = (uint32_t)command,
	};
	long result;

	if (!file_is_own(file) || quire_vm_is_dead(vcpu->vm->memory))
		return -EIO;
	if (_IOC_TYPE(command) != KVMIO)
		return -EINVAL;
	process_lock_acquire(&vcpu->lock);
	result = ioctl_dispatch(&vcpu_table, &call);
	process_lock_release(&vcpu->lock);
	return result;
}

/*
 * The ring is shared or it is nothing, and never code. Any mapping of the pages before it is the
 * client's own business.
 */
static int vcpu_map(struct file *file, const struct file_map_request *request)
{
	const struct vcpu *vcpu = file_object(file);
	uint64_t first = (uint64_t)request->offset_bytes / 4096;
	uint64_t end = first + (request->length_bytes + 4095) / 4096;
	uint64_t ring_end = VCPU_RING_PAGE + vcpu->ring_bytes / 4096;
	bool shared = (request->flags & MAP_TYPE) != MAP_PRIVATE;

	if (end > VCPU_RING_PAGE && first < ring_end && ((request->prot & PROT_EXEC) || !shared))
		return -EINVAL;
	return 0;
}

/* The pages between the run page's three and the ring do not exist. */
static void vcpu_hole(const struct file *file, uint64_t *start_bytes, uint64_t *end_bytes)
{
	*start_bytes = VCPU_MMAP_BYTES;
	*end_bytes = VCPU_RING_PAGE * 4096;
}

static void vcpu_release(struct file *file)
{
	struct vcpu *vcpu = file_object(file);
	struct iobus *bus = &vcpu->vm->bus;

	process_lock_acquire(&bus->lock);
	if (bus->ring == (char *)vcpu->run + VCPU_COALESCED_PAGE * 4096)
		bus->ring = NULL;
	vcpu->run = NULL;
	process_lock_release(&bus->lock);
	vm_put(vcpu->vm);
}

const struct file_ops vcpu_file_ops = {
    .kind = FILE_VCPU,
    .name = "kvm-vcpu",
    .ioctl = vcpu_ioctl,
    .map = vcpu_map,
    .hole = vcpu_hole,
    .release = vcpu_release,
};
