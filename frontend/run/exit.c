/* Exits of the CPU as KVM's exits, and the CPU's questions to the machine around it. */
#include "frontend/run/exit.h"

#include <errno.h>
#include <linux/kvm_para.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <quire/dirty.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/run/signal_state.h"
#include "frontend/state/cpuid.h"
#include "hosts/process/sys.h"
#include "sanitize/machine.h"
#include "src/base/trace.h"
#include "vcpu/arch.h"

#define EMULATION_FLAG_INSN_BYTES 1u
/* Words of exit information that follow the instruction bytes. */
#define EMULATION_INFO_WORDS 5u
#define EMULATION_INSN_WORDS 3u

static enum run_next exit_io(struct vcpu *vcpu, const struct cpu_io *io)
{
	struct kvm_run *run = vcpu->run;

	stat_count(&vcpu->stats.io_exits);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = io->is_write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = (uint8_t)io->size_bytes;
	run->io.port = (uint16_t)io->address;
	run->io.count = io->count ? io->count : 1;
	run->io.data_offset = VCPU_PIO_PAGE * 4096;
	if (io->is_write)
		memcpy((char *)run + VCPU_PIO_PAGE * 4096, io->data, sizeof(io->data));
	vcpu->pending = VCPU_PENDING_IO;
	vcpu->pending_io = *io;
	return RUN_EXIT;
}

static enum run_next exit_mmio(struct vcpu *vcpu, const struct cpu_io *io)
{
	struct kvm_run *run = vcpu->run;

	stat_count(&vcpu->stats.mmio_exits);
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = io->address;
	run->mmio.len = io->size_bytes;
	run->mmio.is_write = io->is_write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (io->is_write)
		memcpy(run->mmio.data, io->data, io->size_bytes);
	vcpu->pending = VCPU_PENDING_MMIO;
	vcpu->pending_io = *io;
	return RUN_EXIT;
}

static bool is_long_mode(const struct cpu_state *state)
{
	return (state->efer >> 10 & 1) && state->seg[CPU_CS].l;
}

static enum run_next exit_hypercall(struct vcpu *vcpu)
{
	const struct cpu_state *state = cpu_state(vcpu->cpu);
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_HYPERCALL;
	/* 'longmode' is the first half of 'flags', 64 bits that older headers do not name. */
	memset(&run->hypercall, 0, sizeof(run->hypercall));
	run->hypercall.nr = state->gpr[CPU_RAX];
	run->hypercall.args[0] = state->gpr[CPU_RBX];
	run->hypercall.args[1] = state->gpr[CPU_RCX];
	run->hypercall.args[2] = state->gpr[CPU_RDX];
	run->hypercall.longmode = is_long_mode(state) ? KVM_EXIT_HYPERCALL_LONG_MODE : 0;
	vcpu->pending = VCPU_PENDING_HYPERCALL;
	return RUN_EXIT;
}

/*
 * User code gets #UD unless the client wants to know; for the kernel the client is told, and #UD
 * waits for it should it come back.
 */
static enum run_next exit_emulation(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);
	bool wanted = atomic_load(&vcpu->vm->settings.exit_on_emulation_failure);
	struct kvm_run *run = vcpu->run;
	uint32_t words = EMULATION_INFO_WORDS + 1;

	stat_count(&vcpu->stats.insn_emulation_fail);
	if (!wanted) {
		state->exception_pending = 1;
		state->exception_vector = VECTOR_UD;
		state->exception_has_error = 0;
		state->exception_has_payload = 0;
		cpu_state_changed(vcpu->cpu);
		if (state->seg[CPU_SS].dpl == 3)
			return RUN_ON;
	}
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	memset(&run->internal, 0, sizeof(run->internal));
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	if (info->insn_size_bytes) {
		run->emulation_failure.flags = EMULATION_FLAG_INSN_BYTES;
		run->emulation_failure.insn_size = info->insn_size_bytes;
		memcpy(run->emulation_failure.insn_bytes, info->insn, info->insn_size_bytes);
		words = EMULATION_INFO_WORDS + EMULATION_INSN_WORDS;
	}
	run->emulation_failure.ndata = words;
	return RUN_EXIT;
}

static enum run_next exit_delivery(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	memset(&run->internal, 0, sizeof(run->internal));
	run->internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
	run->internal.ndata = 5; /* event, hardware's reason and details, gpa, processor */
	run->internal.data[0] = info->vector_info;
	run->internal.data[3] = info->gpa;
	return RUN_EXIT;
}

void exit_send_lost(hva_t hva)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = SIGBUS;
	info.si_errno = SIGNAL_SENT;
	info.si_code = BUS_MCEERR_AR;
	info.si_addr = (void *)(uintptr_t)hva.v;
	info.si_addr_lsb = QUIRE_PAGE_SHIFT;
	signal_send_again(&info);
}

/* KVM_RUN ends as with any signal. The instruction runs again with the next KVM_RUN. */
static enum run_next exit_poison(struct vcpu *vcpu, hva_t hva)
{
	exit_send_lost(hva);
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	return run_fail(vcpu, -EINTR);
}

static enum run_next exit_error(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	struct uapi_memory_fault *fault = (void *)&vcpu->run->hw;

	if (info->error == -EHWPOISON && !info->fault.size_bytes)
		return exit_poison(vcpu, info->fault.hva);

	if (info->fault.size_bytes) {
		vcpu->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
		fault->flags = info->fault.flags;
		fault->gpa = info->fault.gpa.v;
		fault->size = info->fault.size_bytes;
	}
	return run_fail(vcpu, info->error);
}

static enum run_next exit_debug(struct vcpu *vcpu, const struct cpu_exit_info *info)
{
	struct kvm_debug_exit_arch *arch = &vcpu->run->debug.arch;

	vcpu->run->exit_reason = KVM_EXIT_DEBUG;
	arch->exception = info->debug_exception;
	arch->pc = info->debug_pc;
	arch->dr6 = info->debug_dr6;
	arch->dr7 = cpu_state(vcpu->cpu)->dr7;
	return RUN_EXIT;
}

static enum run_next exit_halt(struct vcpu *vcpu)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (atomic_load(&vcpu->vm->settings.disabled_exits) & KVM_X86_DISABLE_EXITS_HLT) {
		state->halted = 1;
		vcpu->sleeps_inside = true;
		return RUN_ON;
	}
	stat_count(&vcpu->stats.halt_exits);
	if (vcpu->lapic.present) {
		state->halted = 1;
		return RUN_ON;
	}
	state->halted = 0;
	vcpu->run->exit_reason = KVM_EXIT_HLT;
	return RUN_EXIT;
}

static enum run_next exit_simple(struct vcpu *vcpu, uint32_t reason)
{
	vcpu->run->exit_reason = reason;
	return RUN_EXIT;
}

enum run_next exit_window(struct vcpu *vcpu)
{
	stat_count(&vcpu->stats.request_irq_exits);
	return exit_simple(vcpu, KVM_EXIT_IRQ_WINDOW_OPEN);
}

enum run_next exit_eoi(struct vcpu *vcpu)
{
	vcpu->has_ended = false;
	vcpu->run->eoi.vector = vcpu->ended_vector;
	return exit_simple(vcpu, KVM_EXIT_IOAPIC_EOI);
}

static enum run_next exit_msr(struct vcpu *vcpu, const struct cpu_exit_info *info,
			      enum msr_access access)
{
	bool is_read = access == MSR_ACCESS_READ;
	struct kvm_run *run = vcpu->run;

	run->exit_reason = is_read ? KVM_EXIT_X86_RDMSR : KVM_EXIT_X86_WRMSR;
	memset(&run->msr, 0, sizeof(run->msr));
	run->msr.reason = vcpu->msr_reason;
	run->msr.index = info->msr_index;
	run->msr.data = is_read ? 0 : info->msr_value;
	vcpu->pending = is_read ? VCPU_PENDING_MSR_READ : VCPU_PENDING_MSR_WRITE;
	return RUN_EXIT;
}

/* Of the exit that the CPU asked for some time ago: a reset may have made room since. */
static enum run_next exit_dirty_ring(struct vcpu *vcpu)
{
	if (!quire_vcpu_dirty_ring_is_full(vcpu->memory))
		return RUN_ON;
	QUIRE_TRACE(kvm_dirty_ring_exit, vcpu->id);
	return exit_simple(vcpu, KVM_EXIT_DIRTY_RING_FULL);
}

enum run_next exit_handle(struct vcpu *vcpu, enum cpu_exit reason, const struct cpu_exit_info *info)
{
	stat_count(&vcpu->stats.exits);
	switch (reason) {
	case CPU_EXIT_INTR:
		stat_count(&vcpu->stats.irq_exits);
		return RUN_ON;
	case CPU_EXIT_STEPPED:
		return RUN_ON;
	case CPU_EXIT_WAIT:
		async_pf_begin(vcpu, info);
		return RUN_ON;
	case CPU_EXIT_IO:
		return exit_io(vcpu, &info->io);
	case CPU_EXIT_MMIO:
		return exit_mmio(vcpu, &info->io);
	case CPU_EXIT_HYPERCALL:
		return exit_hypercall(vcpu);
	case CPU_EXIT_HLT:
		return exit_halt(vcpu);
	case CPU_EXIT_SHUTDOWN:
		return exit_simple(vcpu, KVM_EXIT_SHUTDOWN);
	case CPU_EXIT_DEAD:
		quire_vm_set_dead(vcpu->vm->memory);
		return run_fail(vcpu, -EIO);
	case CPU_EXIT_IRQ_WINDOW:
		stat_count(&vcpu->stats.irq_window_exits);
		return exit_window(vcpu);
	case CPU_EXIT_DELIVERY:
		return exit_delivery(vcpu, info);
	case CPU_EXIT_ERROR:
		return exit_error(vcpu, info);
	case CPU_EXIT_DEBUG:
		return exit_debug(vcpu, info);
	case CPU_EXIT_DIRTY_RING:
		return exit_dirty_ring(vcpu);
	case CPU_EXIT_MSR_READ:
		return exit_msr(vcpu, info, MSR_ACCESS_READ);
	case CPU_EXIT_MSR_WRITE:
		return exit_msr(vcpu, info, MSR_ACCESS_WRITE);
	case CPU_EXIT_EMULATION:
		break;
	}
	return exit_emulation(vcpu, info);
}

/* The CPU's callbacks; ctx is the vCPU. */

static void op_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	cpuid_query(ctx, leaf, subleaf, out);
}

static uint32_t msr_exit_reason(int error)
{
	switch (error) {
	case -EPERM:
		return KVM_MSR_EXIT_REASON_FILTER;
	case -ENOENT:
		return KVM_MSR_EXIT_REASON_UNKNOWN;
	default:
		return KVM_MSR_EXIT_REASON_INVAL;
	}
}

static enum cpu_msr_result access_msr(struct vcpu *vcpu, enum msr_access access, uint32_t index,
				      uint64_t *value)
{
	int error;

	pv_eoi_settle(vcpu);
	error = msr_guest_access(vcpu, access, index, value);
	if (!error)
		return CPU_MSR_OK;
	vcpu->msr_reason = msr_exit_reason(error);
	if (atomic_load(&vcpu->vm->settings.msr_exits) & vcpu->msr_reason)
		return CPU_MSR_USER;
	return CPU_MSR_GP;
}

static enum cpu_msr_result op_rdmsr(void *ctx, uint32_t index, uint64_t *value)
{
	return access_msr(ctx, MSR_ACCESS_READ, index, value);
}

static enum cpu_msr_result op_wrmsr(void *ctx, uint32_t index, uint64_t value)
{
	return access_msr(ctx, MSR_ACCESS_WRITE, index, &value);
}

static enum cpu_io_result pio_inside(struct vcpu *vcpu, struct cpu_io *io)
{
	if (irqchip_pio(vcpu->vm, io) == CPU_IO_DONE)
		return CPU_IO_DONE;
	return iobus_access(vcpu->vm, IOBUS_PIO, io);
}

static enum cpu_io_result op_pio(void *ctx, struct cpu_io *io)
{
	enum cpu_io_result result = pio_inside(ctx, io);

	/* A read that the client answers is told when it has. */
	if (io->is_write || result == CPU_IO_DONE)
		exit_trace_access(IOBUS_PIO, io, io->data);
	return result;
}

static enum cpu_io_result mmio_inside(struct vcpu *vcpu, struct cpu_io *io)
{
	stat_count(&vcpu->stats.insn_emulation);
	pv_eoi_settle(vcpu);
	if (vcpu->lapic.present && lapic_mmio(vcpu, io) == CPU_IO_DONE)
		return CPU_IO_DONE;
	if (irqchip_mmio(vcpu->vm, io) == CPU_IO_DONE)
		return CPU_IO_DONE;
	return iobus_access(vcpu->vm, IOBUS_MMIO, io);
}

static enum cpu_io_result op_mmio(void *ctx, struct cpu_io *io)
{
	enum cpu_io_result result = mmio_inside(ctx, io);

	if (io->is_write || result == CPU_IO_DONE)
		exit_trace_access(IOBUS_MMIO, io, io->data);
	else
		exit_trace_unsatisfied(io);
	return result;
}

/* KVM_HC_MAP_GPA_RANGE: does the client get it? Else *@ret is the guest's answer. */
static bool map_gpa_range_exits(struct vcpu *vcpu, const struct cpu_state *state, int64_t *ret)
{
	uint64_t gpa = state->gpr[CPU_RBX], pages = state->gpr[CPU_RCX];

	*ret = -KVM_ENOSYS;
	if (!(atomic_load(&vcpu->vm->settings.exit_hypercalls) >> KVM_HC_MAP_GPA_RANGE & 1))
		return false;
	*ret = -KVM_EINVAL;
	if (gpa % 4096 || !pages)
		return false;
	return gpa / 4096 + pages > gpa / 4096;
}

/* To whichever thread is next: there is no yielding to one of our choice. */
static int64_t yield(struct vcpu *vcpu)
{
	stat_count(&vcpu->stats.directed_yield_attempted);
	sys_call(SYS_sched_yield, 0);
	return 0;
}

static int64_t send_ipis(struct vcpu *vcpu, const struct cpu_state *state)
{
	bool is_long = is_long_mode(state);
	uint64_t mask = is_long ? UINT64_MAX : UINT32_MAX;
	struct apic_multicast multicast = {
	    .low = state->gpr[CPU_RBX] & mask,
	    .high = state->gpr[CPU_RCX] & mask,
	    .first = (uint32_t)state->gpr[CPU_RDX],
	    .word_bits = is_long ? 64 : 32,
	    .icr = (uint32_t)state->gpr[CPU_RSI],
	};

	return apic_multicast(vcpu->vm, &multicast);
}

/* What the guest may do with other processors, if CPUID lets it. */
static int64_t pv_hypercall(struct vcpu *vcpu, const struct cpu_state *state, uint64_t number)
{
	switch (number) {
	case KVM_HC_VAPIC_POLL_IRQ:
		return 0;
	case KVM_HC_KICK_CPU:
		if (!msr_pv_has(vcpu, KVM_FEATURE_PV_UNHALT))
			return -KVM_ENOSYS;
		apic_kick(vcpu->vm, (uint32_t)state->gpr[CPU_RCX]);
		return yield(vcpu);
	case KVM_HC_SEND_IPI:
		return msr_pv_has(vcpu, KVM_FEATURE_PV_SEND_IPI) ? send_ipis(vcpu, state)
								 : -KVM_ENOSYS;
	case KVM_HC_SCHED_YIELD:
		return msr_pv_has(vcpu, KVM_FEATURE_PV_SCHED_YIELD) ? yield(vcpu) : -KVM_ENOSYS;
	default:
		return -KVM_ENOSYS;
	}
}

static enum cpu_io_result op_hypercall(void *ctx)
{
	struct vcpu *vcpu = ctx;
	struct cpu_state *state = cpu_state(vcpu->cpu);
	uint64_t number = state->gpr[CPU_RAX];
	int64_t ret = -KVM_ENOSYS;

	stat_count(&vcpu->stats.hypercalls);
	if (!is_long_mode(state))
		number = (uint32_t)number;
	if (state->seg[CPU_SS].dpl) {
		ret = -KVM_EPERM;
	} else if (number == KVM_HC_MAP_GPA_RANGE) {
		if (map_gpa_range_exits(vcpu, state, &ret))
			return CPU_IO_USER;
	} else {
		ret = pv_hypercall(vcpu, state, number);
	}
	state->gpr[CPU_RAX] = is_long_mode(state) ? (uint64_t)ret : (uint32_t)ret;
	return CPU_IO_DONE;
}

bool exit_interrupt_waiting(struct vcpu *vcpu)
{
	if (!vcpu->lapic.present)
		return false;
	if (lapic_has_interrupt(vcpu))
		return true;
	return lapic_accepts_pic(vcpu) &&
	       (vcpu->lapic.pending_extint >= 0 || irqchip_pic_pending(vcpu->vm));
}

static bool op_interrupt_waiting(void *ctx)
{
	pv_eoi_settle(ctx);
	return exit_interrupt_waiting(ctx);
}

/* The PIC's vector, the client's where it plays the PIC; -1: none. */
static int take_extint(struct vcpu *vcpu)
{
	int vector = vcpu->lapic.pending_extint;

	vcpu->lapic.pending_extint = -1;
	return vector >= 0 ? vector : irqchip_pic_take(vcpu->vm);
}

static int op_interrupt_take(void *ctx)
{
	struct vcpu *vcpu = ctx;
	int vector = -1;

	if (!vcpu->lapic.present)
		return -1;
	pv_eoi_settle(vcpu);
	if (lapic_accepts_pic(vcpu))
		vector = take_extint(vcpu);
	if (vector < 0) {
		vector = lapic_take_interrupt(vcpu);
		if (vector >= 0)
			pv_eoi_offer(vcpu);
	}
	if (vector >= 0)
		stat_count(&vcpu->stats.irq_injections);
	return vector;
}

static uint64_t op_cr8_read(void *ctx)
{
	return lapic_get_cr8(ctx);
}

static void op_cr8_write(void *ctx, uint64_t value)
{
	lapic_set_cr8(ctx, value & 15);
}

static void op_log(void *ctx, const char *line)
{
	struct vcpu *vcpu = ctx;

	fprintf(stderr, "quire: vCPU %u: %s\n", vcpu->id, line);
}

static void op_stale(void *ctx, const struct cpu_stale *stale)
{
	exit_report_stale(stale);
}

static uint64_t op_memory(void *ctx, uint32_t address_space, uint64_t gpa)
{
	const struct vcpu *vcpu = ctx;

	return sanitize_slot_find(&vcpu->vm->host, address_space, gpa);
}

static uint32_t op_memory_turn(void *ctx)
{
	(void)ctx;
	return sanitize_slot_turn();
}

const struct cpu_ops vcpu_cpu_ops = {
    .cpuid = op_cpuid,
    .rdmsr = op_rdmsr,
    .wrmsr = op_wrmsr,
    .pio = op_pio,
    .mmio = op_mmio,
    .hypercall = op_hypercall,
    .interrupt_take = op_interrupt_take,
    .interrupt_waiting = op_interrupt_waiting,
    .cr8_read = op_cr8_read,
    .cr8_write = op_cr8_write,
    .log = op_log,
    .stale = op_stale,
    .memory = op_memory,
    .memory_turn = op_memory_turn,
};
