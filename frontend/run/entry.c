/* KVM_RUN: from the client's run page into the CPU and back. */
#include <errno.h>
#include <string.h>

#include <quire/dirty.h>

#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/run/exit.h"
#include "frontend/run/signals.h"
#include "frontend/state/nested_state.h"
#include "sanitize/slot.h"
#include "src/base/trace.h"
#include "vcpu/arch.h"
#include "vcpu/svm/nested.h"

#define SYNC_VALID (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS)

/* Take what the client changed in the run page's copy of the registers. */
static int sync_in(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	uint64_t dirty = run->kvm_dirty_regs;

	if ((run->kvm_valid_regs | dirty) & ~(uint64_t)SYNC_VALID)
		return -EINVAL;
	if (dirty & KVM_SYNC_X86_REGS) {
		struct kvm_regs regs = run->s.regs.regs;

		regs_set(vcpu, &regs);
	}
	if (dirty & KVM_SYNC_X86_SREGS) {
		struct kvm_sregs sregs = run->s.regs.sregs;

		if (sregs_set(vcpu, &sregs))
			return -EINVAL;
	}
	if (dirty & KVM_SYNC_X86_EVENTS) {
		struct kvm_vcpu_events events = run->s.regs.events;

		if (events_set(vcpu, &events))
			return -EINVAL;
	}
	run->kvm_dirty_regs = 0;
	return 0;
}

static void sync_out(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		regs_get(vcpu, &run->s.regs.regs);
	if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		sregs_get(vcpu, &run->s.regs.sregs);
	if (run->kvm_valid_regs & KVM_SYNC_X86_EVENTS)
		events_get(vcpu, &run->s.regs.events);
}

/* Is there room for an interrupt of the client's? The CPU need not be able to take it yet. */
static bool has_room_for_interrupt(struct vcpu *vcpu)
{
	if (!vcpu->lapic.present)
		return !cpu_state(vcpu->cpu)->interrupt_injected;
	/* With LINT0 masked the APIC never asks for the client's vector. */
	return lapic_accepts_pic(vcpu) && vcpu->lapic.pending_extint < 0;
}

static bool accepts_injection(struct vcpu *vcpu)
{
	return cpu_is_interruptible(vcpu->cpu) && has_room_for_interrupt(vcpu);
}

/* The client wants to know when it may inject. Never with a PIC inside: that one injects. */
static bool waits_for_window(struct vcpu *vcpu)
{
	return vcpu->run->request_interrupt_window && !irqchip_has_pic(&vcpu->vm->irqchip);
}

static void save_run_state(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	if (cpu_state(vcpu->cpu)->smm)
		run->flags |= KVM_RUN_X86_SMM;
	if (cpu_nested_active(vcpu->cpu))
		run->flags |= UAPI_RUN_GUEST_MODE;
	run->if_flag = (cpu_state(vcpu->cpu)->rflags & FLAG_IF) != 0;
	run->cr8 = lapic_get_cr8(vcpu);
	run->apic_base = lapic_get_base(vcpu);
	run->ready_for_interrupt_injection =
	    irqchip_has_pic(&vcpu->vm->irqchip) || accepts_injection(vcpu);
	sync_out(vcpu);
}

/* The client's answer to the last exit, from the run page. */
static void take_answer(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	const struct cpu_io *io = &vcpu->pending_io;
	uint32_t size_bytes = io->size_bytes * (io->count ? io->count : 1);
	uint8_t data[VCPU_INPUT_MAX];
	uint64_t ret;

	switch (vcpu->pending) {
	case VCPU_PENDING_NONE:
		return;
	case VCPU_PENDING_IO:
	case VCPU_PENDING_MMIO:
		memcpy(data,
		       vcpu->pending == VCPU_PENDING_IO
			   ? (const void *)((const char *)run + VCPU_PIO_PAGE * 4096)
			   : (const void *)run->mmio.data,
		       size_bytes);
		if (!io->is_write)
			exit_trace_access(vcpu->pending == VCPU_PENDING_IO ? IOBUS_PIO : IOBUS_MMIO,
					  io, data);
		cpu_answer(vcpu->cpu, io->is_write ? NULL : data, io->is_write ? 0 : size_bytes,
			   false);
		break;
	case VCPU_PENDING_HYPERCALL:
		ret = run->hypercall.ret;
		cpu_answer(vcpu->cpu, &ret, sizeof(ret), false);
		break;
	case VCPU_PENDING_MSR_READ:
		ret = run->msr.data;
		cpu_answer(vcpu->cpu, &ret, sizeof(ret), run->msr.error != 0);
		break;
	case VCPU_PENDING_MSR_WRITE:
		cpu_answer(vcpu->cpu, NULL, 0, run->msr.error != 0);
		break;
	}
	vcpu->pending = VCPU_PENDING_NONE;
}

enum run_next run_fail(struct vcpu *vcpu, int error)
{
	vcpu->run_error = error < 0 ? error : -EIO;
	return RUN_FAILED;
}

static enum run_next signal_exit(struct vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_INTR;
	stat_count(&vcpu->stats.signal_exits);
	return run_fail(vcpu, -EINTR);
}

#define CLIENT_REQUESTS (~((UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT) - 1))

/*
 * Silence the doorbell before looking at what it may have rung for: events, interrupts, signals. A
 * sleeper silences it altogether, or it never sleeps; what the library asked for meanwhile is
 * asked again before the CPU runs.
 */
static void silence_doorbell(struct vcpu *vcpu, uint64_t requests)
{
	uint64_t taken = quire_vcpu_take_requests(vcpu->memory, requests);

	vcpu->owed_requests |= taken & ~CLIENT_REQUESTS;
	if (taken & RUN_REQ_EVENT)
		stat_count(&vcpu->stats.req_event);
	events_fold(vcpu);
}

static bool may_wake(struct vcpu *vcpu)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (vcpu->mp_state != KVM_MP_STATE_RUNNABLE)
		return false;
	if ((!state->halted && !vcpu->async_pf.halted) || vcpu->kicked ||
	    async_pf_is_due(&vcpu->async_pf) || cpu_would_wake(vcpu->cpu))
		return true;
	/* Asleep without an exit: the client waits for the window with it. */
	return vcpu->sleeps_inside && vcpu->run->request_interrupt_window &&
	       !irqchip_has_pic(&vcpu->vm->irqchip) && accepts_injection(vcpu);
}

static void count_wait(struct vcpu *vcpu, uint64_t ns)
{
	uint32_t bits = ns ? 64 - (uint32_t)__builtin_clzll(ns) : 0;

	stat_add(&vcpu->stats.halt_wait_ns, ns);
	if (bits >= VCPU_HALT_BUCKETS)
		bits = VCPU_HALT_BUCKETS - 1;
	stat_count(&vcpu->stats.halt_wait_hist[bits]);
}

/* Sleep until an event or a signal. */
static void sleep_once(struct vcpu *vcpu)
{
	uint64_t start_ns = timers_now_ns();

	atomic_store(&vcpu->stats.blocking, 1);
	run_signals_wait(vcpu->memory);
	atomic_store(&vcpu->stats.blocking, 0);
	/* Before its SIPI a vCPU does not halt, nor while only a page of the host's is missing. */
	if (vcpu->mp_state != KVM_MP_STATE_RUNNABLE || !cpu_state(vcpu->cpu)->halted)
		return;
	count_wait(vcpu, timers_now_ns() - start_ns);
	if (!run_signals_pending())
		stat_count(&vcpu->stats.halt_wakeup);
}

/* A kick is spent by the HLT that it ended. */
static void get_up(struct vcpu *vcpu)
{
	struct cpu_state *state = cpu_state(vcpu->cpu);

	if (state->halted)
		vcpu->kicked = false;
	state->halted = 0;
	vcpu->async_pf.halted = false;
}

/* In HLT, until SIPI, or until the host has a page. */
static enum run_next wait_runnable(struct vcpu *vcpu)
{
	for (;;) {
		silence_doorbell(vcpu, UINT64_MAX);
		if (may_wake(vcpu))
			break;
		if (run_signals_pending())
			return signal_exit(vcpu);
		sleep_once(vcpu);
	}
	get_up(vcpu);
	vcpu->reset_hold = vcpu->sleeps_inside = false;
	return RUN_ON;
}

static enum cpu_exit run_cpu(struct vcpu *vcpu, uint32_t flags, struct cpu_exit_info *info)
{
	enum cpu_exit reason;

	if (vcpu->owed_requests) {
		quire_vcpu_request(vcpu->memory, vcpu->owed_requests);
		vcpu->owed_requests = 0;
	}
	/* What only completes an instruction is no entry: KVM does that itself. */
	if (!(flags & CPU_RUN_COMPLETE))
		QUIRE_TRACE(kvm_entry, vcpu->id, cpu_state(vcpu->cpu)->rip,
			    vcpu->run->immediate_exit, 0, 0);
	reason = cpu_run(vcpu->cpu, flags, info);
	if (!(flags & CPU_RUN_COMPLETE))
		exit_trace(vcpu, reason, info);
	pv_eoi_settle(vcpu);
	return reason;
}

static uint32_t run_flags(struct vcpu *vcpu)
{
	uint32_t flags = vcpu->lapic.present ? CPU_RUN_HLT_IN_KERNEL : 0;

	if (waits_for_window(vcpu) && has_room_for_interrupt(vcpu))
		flags |= CPU_RUN_IRQ_WINDOW;
	if (msr_filter_sees_all(vcpu->vm))
		flags |= CPU_RUN_ASK_MSRS;
	if (vcpu->debug_control & KVM_GUESTDBG_SINGLESTEP)
		flags |= CPU_RUN_STEP;
	if (atomic_load(&vcpu->vm->settings.disabled_quirks) & KVM_X86_QUIRK_FIX_HYPERCALL_INSN)
		flags |= CPU_RUN_KEEP_HYPERCALLS;
	if (atomic_load(&vcpu->vm->settings.disabled_quirks) & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)
		flags |= CPU_RUN_MWAIT_FAULTS;
	if (vcpu->debug_control & KVM_GUESTDBG_BLOCKIRQ)
		flags |= CPU_RUN_BLOCK_EVENTS;
	if (async_pf_may_leave(vcpu))
		flags |= CPU_RUN_NOWAIT;
	return flags;
}

/* Finish the instruction that waited for the client. */
static enum run_next complete_pending(struct vcpu *vcpu)
{
	struct cpu_exit_info info;

	take_answer(vcpu);
	while (cpu_is_pending(vcpu->cpu)) {
		enum cpu_exit reason = run_cpu(vcpu, CPU_RUN_COMPLETE, &info);
		enum run_next next;

		if (reason == CPU_EXIT_STEPPED)
			break;
		next = exit_handle(vcpu, reason, &info);
		if (next != RUN_ON)
			return next;
		silence_doorbell(vcpu, CLIENT_REQUESTS);
		if (run_signals_pending())
			return signal_exit(vcpu);
	}
	return RUN_ON;
}

static enum run_next run_loop(struct vcpu *vcpu)
{
	struct cpu_exit_info info;
	enum run_next next;

	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	vcpu->has_run = true;
	cpu_forget_directories(vcpu->cpu);
	for (;;) {
		silence_doorbell(vcpu, CLIENT_REQUESTS);
		if (vcpu->triple_fault) {
			vcpu->triple_fault = false;
			if (cpu_nested_shutdown(vcpu->cpu))
				continue;
			vcpu->run->exit_reason = KVM_EXIT_SHUTDOWN;
			return RUN_EXIT;
		}
		if (vcpu->has_ended)
			return exit_eoi(vcpu);
		if (quire_vcpu_dirty_ring_is_full(vcpu->memory)) {
			QUIRE_TRACE(kvm_dirty_ring_exit, vcpu->id);
			vcpu->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
			return RUN_EXIT;
		}
		if (run_signals_pending())
			return signal_exit(vcpu);
		if (!may_wake(vcpu)) {
			next = wait_runnable(vcpu);
			if (next != RUN_ON)
				return next;
		}
		get_up(vcpu);
		vcpu->reset_hold = vcpu->sleeps_inside = false;
		async_pf_check(vcpu);
		steal_time_update(vcpu, STEAL_RUNNING);
		next = exit_handle(vcpu, run_cpu(vcpu, run_flags(vcpu), &info), &info);
		if (next != RUN_ON)
			return next;
		if (waits_for_window(vcpu) && accepts_injection(vcpu))
			return exit_window(vcpu);
	}
}

/* No SIPI gets through: no processor waits for one then, only a client can have it so. */
static bool sipi_is_blocked(const struct vcpu *vcpu)
{
	return vcpu->mp_state == KVM_MP_STATE_INIT_RECEIVED &&
	       (cpu_state(vcpu->cpu)->smm || !cpu_nested_gif(vcpu->cpu));
}

/* An application processor before its INIT: the client is told to try again once it came. */
static enum run_next run_uninitialized(struct vcpu *vcpu)
{
	if (vcpu->run->immediate_exit)
		return run_fail(vcpu, -EINTR);
	for (;;) {
		silence_doorbell(vcpu, UINT64_MAX);
		if (run_signals_pending())
			return signal_exit(vcpu);
		if (vcpu->mp_state != KVM_MP_STATE_UNINITIALIZED)
			return run_fail(vcpu, -EAGAIN);
		sleep_once(vcpu);
	}
}

static enum run_next run_inside(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	bool immediate = run->immediate_exit != 0;
	enum run_next next;

	run->flags = 0;
	nested_settle(vcpu);
	steal_time_update(vcpu, STEAL_AT_ENTRY);
	/* An INIT that waits already is one for which the client tries again, too. */
	if (vcpu->mp_state == KVM_MP_STATE_UNINITIALIZED)
		return run_uninitialized(vcpu);
	events_fold(vcpu);
	if (sync_in(vcpu))
		return run_fail(vcpu, -EINVAL);
	if (!vcpu->lapic.present) {
		if (run->cr8 > 15)
			return run_fail(vcpu, -EINVAL);
		lapic_set_cr8(vcpu, (uint8_t)run->cr8);
	}
	next = complete_pending(vcpu);
	if (next != RUN_ON)
		return next;
	/* Clients finish an instruction this way and then look at its exit once more. */
	if (immediate)
		return run_fail(vcpu, -EINTR);
	if (sipi_is_blocked(vcpu))
		return run_fail(vcpu, -EINVAL);
	return run_loop(vcpu);
}

long vcpu_run(struct ioctl_call *call)
{
	struct vcpu *vcpu = call->object;
	long result;

	if (call->argument)
		return -EINVAL;
	nx_recovery_poll(vcpu->vm);
	split_ahead_poll(vcpu->vm);
	sanitize_slot_run(&vcpu->vm->host);
	run_signals_enter(&vcpu->stop, vcpu->has_sigmask ? &vcpu->sigmask : NULL);
	process_runner_enter(&vcpu->runner);
	cpu_watch_run_begins(vcpu->cpu);
	result = run_inside(vcpu) == RUN_FAILED ? vcpu->run_error : 0;
	QUIRE_TRACE(kvm_userspace_exit, vcpu->run->exit_reason, (uint64_t)result);
	save_run_state(vcpu);
	cpu_watch_run_ends(vcpu->cpu);
	process_runner_leave(&vcpu->runner);
	run_signals_leave();
	return result;
}
