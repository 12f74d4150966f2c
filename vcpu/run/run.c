/*
 * Running. cpu_run() turns in a loop of five steps: choose an event, enter guest mode, deliver the
 * event or run blocks, leave guest mode, see to what stopped the blocks. Handlers never leave
 * the loop themselves: they abort with cpu->stop set. An exception that asks nothing of the
 * surroundings is delivered without a turn.
 */
#include "vcpu/run/run.h"

#include <errno.h>
#include <stdio.h>

#include <quire/gmem.h>

#include "hosts/process/guard.h"
#include "src/base/trace.h"
#include "vcpu/decode/code.h"
#include "vcpu/decode/decode.h"
#include "vcpu/decode/feature.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/mem/stage2.h"
#include "vcpu/mem/watch.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/event.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"
#include "vcpu/smm/smm.h"
#include "vcpu/svm/svm.h"
#include "vcpu/translate/translate.h"

#define CLIENT_REQUESTS (~((UINT64_C(1) << QUIRE_REQ_CLIENT_SHIFT) - 1))
/* How often the host may take a page away right after the fault path gave it. */
#define GUARD_TRIES_MAX 16
/* How often a pending instruction may fault before a waiting client is heard. */
#define COMPLETE_TRIES_MAX 64

enum verdict { VERDICT_GO_ON, VERDICT_EXIT };

/* Where one call of cpu_run() stands. */
struct run {
	struct event event;
	uint8_t has_event;
	uint8_t was_pending;	/* it began with an unfinished instruction */
	uint8_t was_delivering; /* an event, when the CPU stopped */
	uint8_t was_changing;	/* memory, so that the last fault found nothing */
	unsigned int complete_tries;
	enum cpu_exit reason;
};

enum step cpu_stop_exit(struct cpu *cpu, enum cpu_exit reason)
{
	cpu->stop = STOP_EXIT;
	cpu->exit_reason = reason;
	return STEP_ABORT;
}

void cpu_leave_guest(struct cpu *cpu)
{
	if (!cpu->in_guest)
		return;
	cpu->in_guest = 0;
	quire_vcpu_leave(cpu->vcpu);
}

enum step exec_undefined(struct cpu *cpu, const struct op *op)
{
	return cpu_raise(cpu, VECTOR_UD);
}

enum step exec_unknown(struct cpu *cpu, const struct op *op)
{
	char line[96];

	snprintf(line, sizeof(line), "vcpu: instruction not implemented: %s at %#llx",
		 decode_mnemonic(op->mnemonic), (unsigned long long)cpu->s.rip);
	cpu_leave_guest(cpu);
	cpu->ops->log(cpu->ctx, line);
	return cpu_raise(cpu, VECTOR_UD);
}

static enum verdict run_exit(struct run *run, enum cpu_exit reason)
{
	run->reason = reason;
	return VERDICT_EXIT;
}

static enum verdict exit_error(struct cpu *cpu, struct run *run, int error)
{
	cpu->info->error = error;
	return run_exit(run, CPU_EXIT_ERROR);
}

/*
 * Code outside 64-bit mode ends at the limit of CS: near it an instruction runs alone (*@single),
 * and one whose last byte is past it faults. EIP has 32 bits, in 16-bit code, too.
 */
static enum step check_code_limit(struct cpu *cpu, const struct block *block, int *single)
{
	uint64_t limit = cpu->s.seg[CPU_CS].limit;

	if (likely(cpu->s.rip + block->size_bytes - 1 <= limit))
		return STEP_NEXT;
	*single = 1;
	if (cpu->s.rip + block->ops[0].length - 1 > limit)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

static enum step find_block(struct cpu *cpu, struct block **block, int *single)
{
	enum step step;

	if (likely(cpu->code_bytes == 8))
		return code_find(cpu, block);
	cpu->s.rip = (uint32_t)cpu->s.rip;
	step = code_find(cpu, block);
	return step ? step : check_code_limit(cpu, *block, single);
}

/* One block, or one instruction of it. RIP stands behind the last one that retired. */
static enum step run_block(struct cpu *cpu, int single)
{
	struct block *block;
	const struct op *op;
	enum step step = find_block(cpu, &block, &single);

	if (unlikely(step))
		return step;
	if (!single && cpu->translate) {
		struct unit *unit = translate_hot(cpu, block);

		if (unit)
			return translate_run(cpu, unit);
	}
	op = block->ops;
	cpu->block_end = op + (single ? 1 : block->op_count);
	for (;;) {
		cpu->op = op;
		step = op->run(cpu, op);
		if (unlikely(step))
			break;
		cpu->s.rip += op->length;
		if (unlikely(++op >= cpu->block_end)) {
			cpu_count_add(&cpu->counts.interpreted, (uint64_t)(op - block->ops));
			return STEP_END;
		}
	}
	cpu_count_add(&cpu->counts.interpreted,
		      (uint64_t)(op - block->ops) + !(step & STEP_F_ABORT));
	if (!(step & (STEP_F_JUMPED | STEP_F_ABORT)))
		cpu->s.rip = op_next_rip(cpu, op);
	return step;
}

/* After an instruction that ran alone. Nonzero: look for events. */
static int finish_single(struct cpu *cpu, int had_shadow, int had_trap)
{
	/* A write to an APIC may free an interrupt that waits (EOI, TPR), and rings no doorbell. */
	int events = cpu->replay.unfinished && event_interruptible(cpu);

	replay_retire(cpu);
	cpu->guard_tries = 0;
	if (had_shadow) {
		cpu->s.interrupt_shadow = 0;
		events |= !cpu->nothing_waits;
	}
	had_trap &= !cpu->debug.no_trap;
	if (debug_after(cpu, (cpu->run_flags & CPU_RUN_STEP) || had_trap ? DR6_BS : 0))
		return 1;
	return events;
}

/* Until something has to be seen to: cpu->stop, an event, the doorbell, left guest mode. */
static void run_guest(struct cpu *cpu)
{
	for (;;) {
		int shadow = cpu->s.interrupt_shadow;
		int trap = (cpu->s.rflags & FLAG_TF) != 0;
		int resume = (cpu->s.rflags & FLAG_RF) != 0;
		int single = shadow | trap | resume | replay_is_active(cpu) | cpu->guard_tries |
			     cpu->debug.armed |
			     (cpu->run_flags & (CPU_RUN_STEP | CPU_RUN_COMPLETE));
		uint8_t blocked;
		enum step step;

		cpu->op = NULL;
		cpu->replay.position = 0;
		cpu->debug.passing = resume;
		cpu->debug.no_trap = 0;
		/* What the client answered has begun already. */
		if (unlikely(cpu->debug.armed) && !replay_is_active(cpu) && debug_before(cpu))
			return;
		blocked = cpu->debug.blocked;
		cpu->debug.blocked = 0;
		step = run_block(cpu, single);
		if (unlikely(step & STEP_F_ABORT)) {
			/* The same instruction begins again, with what was not told yet. */
			cpu->debug.blocked = blocked && cpu->stop != STOP_EXCEPTION;
			return;
		}
		if (unlikely(single) && finish_single(cpu, shadow, trap))
			return;
		if (unlikely(step & STEP_F_EVENTS) || !cpu->in_guest)
			return;
		if (unlikely(__atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED)))
			return;
		if (unlikely(cpu->run_flags & CPU_RUN_COMPLETE))
			return;
	}
}

static enum verdict exit_delivery(struct cpu *cpu, struct run *run)
{
	const struct event *event = &run->event;

	cpu->info->gpa = cpu->fault_gpa;
	cpu->info->vector_info = UINT64_C(1) << 31;
	if (run->has_event)
		cpu->info->vector_info |=
		    event->vector | (uint64_t)event->type << 8 | (uint64_t)event->has_error << 11;
	return run_exit(run, CPU_EXIT_DELIVERY);
}

/* After an exit to L1: it goes on, unless its VMCB has gone. */
static enum verdict exited_to_l1(struct cpu *cpu, struct run *run, int result)
{
	replay_retire(cpu);
	cpu->guard_tries = 0;
	run->has_event = 0;
	return result == SVM_DONE ? VERDICT_GO_ON : run_exit(run, CPU_EXIT_SHUTDOWN);
}

/* The exit in cpu->svm.exit, while @first was being delivered (or NULL). */
static enum verdict exit_to_l1(struct cpu *cpu, struct run *run, const struct event *first)
{
	if (first)
		event_done(cpu, first);
	return exited_to_l1(cpu, run, svm_vmexit(cpu, first));
}

static enum verdict handle_shutdown(struct cpu *cpu, struct run *run)
{
	uint64_t intercept = cpu->svm.control.intercept;

	if (!cpu->svm.in_guest_mode || !(intercept >> INTERCEPT_SHUTDOWN & 1))
		return run_exit(run, CPU_EXIT_SHUTDOWN);
	return exited_to_l1(cpu, run,
			    svm_vmexit_code(cpu, VMCB_EXIT_INTR + INTERCEPT_SHUTDOWN, NULL));
}

/* The fault path said that there is no memory, or none that the guest may write itself. */
static enum verdict handle_device(struct cpu *cpu, struct run *run, int was_delivering, int outcome)
{
	struct stage2_device device = {
	    .gpa = cpu->fault_gpa,
	    .where = cpu->svm.nested_paging || cpu->linear_root ? cpu->info->fault.gpa.v
								: cpu->fault_gpa,
	    .access = cpu->fault_error & QUIRE_PFERR_WRITE ? MMU_WRITE : MMU_READ,
	    .is_memory = outcome == QUIRE_WRITE_PROTECTED,
	};

	/* Clients know no linear addresses. */
	if (cpu->linear_root)
		cpu->fault_gpa = device.where;
	if (was_delivering && device.is_memory && replay_tries_again(cpu))
		return VERDICT_GO_ON;
	if (was_delivering)
		return exit_delivery(cpu, run);
	if ((cpu->fault_error & QUIRE_PFERR_FETCH) || stage2_mark_device(cpu, &device)) {
		cpu->info->gpa = cpu->fault_gpa;
		return run_exit(run, CPU_EXIT_EMULATION);
	}
	return VERDICT_GO_ON;
}

/* The event on its way when the CPU stopped: a chosen one, or that of INT n and its like. */
static const struct event *delivered_event(struct cpu *cpu, struct run *run)
{
	if (run->has_event)
		return &run->event;
	if (!run->was_delivering || !cpu->svm.in_guest_mode)
		return NULL;
	run->event = (struct event){.type = cpu->soft.type, .vector = cpu->soft.vector};
	return &run->event;
}

static enum verdict handle_exception(struct cpu *cpu, struct run *run)
{
	const struct event *first = delivered_event(cpu, run);

	if (svm_exception(cpu, &cpu->exception))
		return exit_to_l1(cpu, run, first);
	if (first)
		event_done(cpu, first);
	replay_retire(cpu);
	if (event_queue_exception(cpu, first))
		return handle_shutdown(cpu, run);
	return VERDICT_GO_ON;
}

/* The guest's own tables, which the library walked, refuse the access. */
static enum verdict reflect_fault(struct cpu *cpu, struct run *run)
{
	uint64_t linear = cpu->info->fault.gpa.v;

	cpu->op = NULL;
	(void)cpu_raise_page_fault(cpu, mmu_linear_of(cpu, linear),
				   (uint32_t)cpu->info->fault.flags);
	cpu->stop = STOP_NONE;
	return handle_exception(cpu, run);
}

/*
 * What KVM emulates reads its memory as the client would, and takes what cannot be read or written
 * for a device. The processor asks for the page of a read-modify-write as for a write, so a
 * read-only slot has it emulated before it is read.
 */
static int is_emulated(struct cpu *cpu)
{
	uint64_t error = cpu->fault_error | QUIRE_PFERR_WRITE;

	if (cpu->info->fault.size_bytes || (cpu->fault_error & QUIRE_PFERR_FETCH))
		return 0;
	if (cpu->replay.emulated_count)
		return 1;
	return cpu->fault_for_store && quire_vcpu_fault(cpu->vcpu, (gpa_t){cpu->fault_gpa}, error,
							&cpu->info->fault) == QUIRE_EMULATE;
}

/*
 * While the host waits for a page the guest could do something else: at a boundary where it takes
 * interrupts, with nothing on its way and nothing begun.
 */
static int may_leave_page(struct cpu *cpu, const struct run *run)
{
	return (cpu->run_flags & CPU_RUN_NOWAIT) && !run->has_event && !run->was_delivering &&
	       !cpu->replay.unfinished && event_interruptible(cpu);
}

static enum verdict exit_wait(struct cpu *cpu, struct run *run)
{
	cpu->info->gpa = cpu->fault_gpa;
	cpu->info->error_code = cpu->fault_error;
	return run_exit(run, CPU_EXIT_WAIT);
}

static enum verdict handle_fault(struct cpu *cpu, struct run *run, int was_delivering)
{
	uint64_t nowait = may_leave_page(cpu, run) ? QUIRE_PFERR_NOWAIT : 0;
	int outcome;

	if (unlikely(cpu->lost_address)) {
		/* If it was a guest_memfd's, the fault says so from now on. */
		(void)quire_vcpu_lose_frame(cpu->vcpu,
					    (pfn_t){cpu->lost_address >> QUIRE_PAGE_SHIFT});
		cpu->lost_address = 0;
	}
	QUIRE_TRACE(kvm_page_fault, quire_vcpu_id(cpu->vcpu), cpu->s.rip, cpu->fault_gpa,
		    cpu->fault_error);
	outcome = quire_vcpu_fault(cpu->vcpu, (gpa_t){cpu->fault_gpa}, cpu->fault_error | nowait,
				   &cpu->info->fault);
	if (nowait && outcome == -EAGAIN)
		return exit_wait(cpu, run);
	if (outcome == -EINTR)
		return run_exit(run, CPU_EXIT_INTR);
	/* While memory changes the library finds nothing: that may last, and is no answer. */
	run->was_changing = outcome == QUIRE_RETRY;
	if (cpu->fault_was_guard && !run->was_changing && ++cpu->guard_tries > GUARD_TRIES_MAX) {
		cpu->guard_tries = 0;
		return exit_error(cpu, run, -EFAULT);
	}
	if (outcome == -EFAULT && is_emulated(cpu))
		outcome = QUIRE_EMULATE;
	if (outcome < 0)
		return exit_error(cpu, run, outcome);
	if (outcome == QUIRE_NESTED_FAULT && cpu->linear_root)
		return reflect_fault(cpu, run);
	if (outcome == QUIRE_NESTED_FAULT) {
		cpu->op = NULL;
		svm_exit(cpu, VMCB_EXIT_NPF, cpu->info->fault.flags, cpu->info->fault.gpa.v);
		cpu->stop = STOP_NONE;
		return exit_to_l1(cpu, run, run->was_delivering ? delivered_event(cpu, run) : NULL);
	}
	if (outcome == QUIRE_EMULATE || outcome == QUIRE_WRITE_PROTECTED)
		return handle_device(cpu, run, was_delivering, outcome);
	return VERDICT_GO_ON;
}

/* Out of guest mode: what stopped the CPU? */
static enum verdict handle_stop(struct cpu *cpu, struct run *run)
{
	enum stop stop = cpu->stop;
	int was_delivering = cpu->delivering;

	run->was_delivering = was_delivering;
	cpu->stop = STOP_NONE;
	cpu->delivering = 0;
	switch (stop) {
	case STOP_EXCEPTION:
		return handle_exception(cpu, run);
	case STOP_FAULT:
		return handle_fault(cpu, run, was_delivering);
	case STOP_DEVICE:
		return replay_perform(cpu) ? run_exit(run, cpu->exit_reason) : VERDICT_GO_ON;
	case STOP_VMEXIT:
		return exit_to_l1(cpu, run, NULL);
	case STOP_EXIT:
		return run_exit(run, cpu->exit_reason);
	default:
		return VERDICT_GO_ON;
	}
}

/* Asleep in HLT: is there a reason to get up? */
bool cpu_would_wake(struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;

	if (s->exception_pending || s->interrupt_injected || s->nmi_injected)
		return 1;
	if (event_nmi_due(cpu) || svm_virtual_due(cpu) || smm_due(cpu))
		return 1;
	return event_interruptible(cpu) && cpu->ops->interrupt_waiting(cpu->ctx);
}

bool cpu_is_interruptible(const struct cpu *cpu)
{
	return event_interruptible(cpu);
}

/* An event that waits and that L1 intercepts takes L2 there. */
static enum verdict choose_exit(struct cpu *cpu, struct run *run)
{
	const struct cpu_state *s = &cpu->s;
	uint64_t code;

	if (s->exception_pending && !s->exception_injected) {
		struct exception exception = {s->exception_vector, s->exception_has_error,
					      s->exception_error};

		if (svm_exception(cpu, &exception))
			return exit_to_l1(cpu, run, NULL);
	}
	if (s->exception_pending || s->interrupt_injected || s->nmi_injected)
		return VERDICT_GO_ON;
	code = svm_interrupt_exit(cpu);
	if (!code)
		return VERDICT_GO_ON;
	return exited_to_l1(cpu, run, svm_vmexit_code(cpu, code, NULL));
}

/* An exception, or an event that is being delivered: these are not held back. */
static int has_begun(const struct cpu_state *s)
{
	return s->exception_pending || s->interrupt_injected || s->nmi_injected;
}

static enum verdict choose_event(struct cpu *cpu, struct run *run)
{
	run->has_event = 0;
	cpu->nothing_waits = 0;
	if (cpu->replay.unfinished)
		return VERDICT_GO_ON;
	if (cpu->run_flags & CPU_RUN_COMPLETE)
		return run_exit(run, CPU_EXIT_STEPPED);
	if (cpu->deferred_requests)
		return run_exit(run, CPU_EXIT_INTR);
	if (cpu->svm.in_guest_mode && choose_exit(cpu, run) == VERDICT_EXIT)
		return VERDICT_EXIT;
	/* Even when something waits already: each HLT is an exit, and counted as one. */
	if (cpu->s.halted)
		return run_exit(run, CPU_EXIT_HLT);
	if (!(cpu->run_flags & CPU_RUN_BLOCK_EVENTS) && smm_due(cpu) && smm_enter(cpu))
		return run_exit(run, CPU_EXIT_DEAD);
	if (!(cpu->run_flags & CPU_RUN_BLOCK_EVENTS) || has_begun(&cpu->s))
		run->has_event = event_choose(cpu, &run->event);
	if (!run->has_event && (cpu->run_flags & CPU_RUN_IRQ_WINDOW) && event_interruptible(cpu))
		return run_exit(run, CPU_EXIT_IRQ_WINDOW);
	cpu->nothing_waits = !run->has_event && !(cpu->run_flags & CPU_RUN_BLOCK_EVENTS) &&
			     !cpu->svm.in_guest_mode && event_interruptible(cpu);
	return VERDICT_GO_ON;
}

/* Enter guest mode and honour the requests that were taken by it. */
static enum verdict enter_guest(struct cpu *cpu, struct run *run)
{
	const uint64_t *old_root = cpu->stage2.root;
	uint64_t requests = 0;
	int error = mmu_take_paging(cpu);

	if (!error)
		error = quire_vcpu_enter(cpu->vcpu, &requests, &cpu->stage2);
	if (error)
		return exit_error(cpu, run, error);
	cpu->in_guest = 1;
	cpu->svm.run_pending = 0;
	if ((requests & QUIRE_REQ_TLB_FLUSH) || cpu->stage2.root != old_root)
		tlb_forget_all(cpu);
	else if (requests)
		code_serialise(cpu);
	if (requests & QUIRE_REQ_DIRTY_RING_FULL) {
		cpu->deferred_requests |= requests & CLIENT_REQUESTS;
		cpu_leave_guest(cpu);
		return run_exit(run, CPU_EXIT_DIRTY_RING);
	}
	requests = (requests & CLIENT_REQUESTS) | cpu->deferred_requests;
	cpu->deferred_requests = 0;
	if (!requests)
		return VERDICT_GO_ON;
	/* What the client began is brought to its end first, unless it drags on. */
	if (cpu->replay.unfinished && run->complete_tries++ < COMPLETE_TRIES_MAX) {
		cpu->deferred_requests = requests;
		return VERDICT_GO_ON;
	}
	cpu_leave_guest(cpu);
	return run_exit(run, CPU_EXIT_INTR);
}

/* May an exception that the guest has raised be delivered at once, with nothing to ask outside? */
static int is_deliverable(const struct cpu *cpu)
{
	return cpu->stop == STOP_EXCEPTION && cpu->in_guest && !cpu->delivering &&
	       !cpu->svm.in_guest_mode && !cpu->debug.armed &&
	       !(cpu->run_flags & CPU_RUN_COMPLETE) &&
	       !__atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED);
}

/* run_guest(), and again behind each exception that needs no look from outside guest mode. */
static void run_guest_with_exceptions(struct cpu *cpu, struct run *run)
{
	run_guest(cpu);
	while (is_deliverable(cpu)) {
		cpu->stop = STOP_NONE;
		replay_retire(cpu);
		(void)event_queue_exception(cpu, NULL);
		run->has_event = event_choose(cpu, &run->event);
		cpu->op = NULL;
		cpu->fault_for_store = 0;
		if (event_deliver(cpu, &run->event) == STEP_ABORT)
			return;
		replay_retire(cpu);
		event_done(cpu, &run->event);
		run->has_event = 0;
		run_guest(cpu);
	}
}

static enum verdict run_once(struct cpu *cpu, struct run *run)
{
	if (choose_event(cpu, run) == VERDICT_EXIT || enter_guest(cpu, run) == VERDICT_EXIT)
		return VERDICT_EXIT;
	cpu->stop = STOP_NONE;
	cpu->op = NULL;
	cpu->fault_for_store = 0;
	debug_update(cpu);
	if (!run->has_event) {
		run_guest_with_exceptions(cpu, run);
	} else if (event_deliver(cpu, &run->event) != STEP_ABORT) {
		replay_retire(cpu);
		event_done(cpu, &run->event);
		run->has_event = 0;
		run_guest_with_exceptions(cpu, run);
	}
	cpu_leave_guest(cpu);
	if (unlikely(cpu->watch))
		tlb_watch_tell(cpu);
	return handle_stop(cpu, run);
}

enum cpu_exit cpu_run(struct cpu *cpu, uint32_t flags, struct cpu_exit_info *info)
{
	struct run run = {0};
	int error;

	memset(info, 0, sizeof(*info));
	cpu->info = info;
	cpu->run_flags = flags;
	error = cpu_prepare(cpu);
	if (error) {
		info->error = error;
		return CPU_EXIT_ERROR;
	}
	/* From the first run on the client cannot change CPUID any more. */
	if (unlikely(!cpu->features))
		cpu->features = features_query(cpu);
	cpu_state_changed(cpu);
	while (run_once(cpu, &run) == VERDICT_GO_ON)
		;
	cpu->s.rflags = flags_get(cpu);
	cpu->info = NULL;
	/* Bits taken but not acted upon are rung again. */
	if (cpu->deferred_requests && run.reason != CPU_EXIT_INTR)
		quire_vcpu_request(cpu->vcpu, cpu->deferred_requests);
	cpu->deferred_requests = 0;
	return run.reason;
}

bool cpu_translate(struct cpu *cpu, uint64_t gva, gpa_t *gpa)
{
	struct cpu_exit_info scratch;
	struct run run = {0};
	uint64_t address;
	int result = 1, tries;

	/* KVM walks by the bits that index tables, whatever those above say; without tables by all.
	 */
	if (cpu->s.efer & EFER_LMA)
		gva = mmu_make_canonical(cpu, gva);
	if (!(cpu->s.cr0 & CR0_PG)) {
		gpa->v = gva;
		return true;
	}
	if (cpu_prepare(cpu) || mmu_take_paging(cpu))
		return false;
	if (cpu->linear_root)
		return !mmu_probe_linear(cpu, gva, gpa);
	cpu_state_changed(cpu);
	cpu->info = &scratch;
	/* Those of the last run ask for nothing here: this waits for the host. */
	cpu->run_flags = 0;
	cpu->tlb_mode = TLB_SUPERVISOR;
	for (tries = 0; result > 0 && tries < GUARD_TRIES_MAX; tries += !run.was_changing) {
		uint64_t requests;

		run.was_changing = 0;
		if (quire_vcpu_enter(cpu->vcpu, &requests, &cpu->stage2))
			break;
		if (requests & QUIRE_REQ_TLB_FLUSH)
			tlb_forget_all(cpu);
		result = mmu_probe(cpu, gva, &address);
		quire_vcpu_leave(cpu->vcpu);
		requests &= ~(uint64_t)QUIRE_REQ_TLB_FLUSH;
		if (requests)
			quire_vcpu_request(cpu->vcpu, requests);
		if (result > 0 && handle_stop(cpu, &run) == VERDICT_EXIT)
			break;
	}
	cpu->info = NULL;
	cpu->replay.emulated_count = 0;
	mmu_update_mode(cpu);
	if (result)
		return false;
	gpa->v = address;
	return true;
}
