/* Exceptions and interrupts: raising, choosing, delivering through the IDT. */
#include "vcpu/run/event.h"

#include "vcpu/decode/code.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

#define GATE_TASK 5u
#define GATE_INTERRUPT_16 6u
#define GATE_TRAP_16 7u
#define GATE_INTERRUPT_32 14u
#define GATE_TRAP_32 15u

/* Types of TR's segment. */
#define TSS_16 1u
#define TSS_BUSY 2u

/* Error code bits of faults in delivery. */
#define ERROR_EXTERNAL 1u
#define ERROR_IDT 2u

#define DR6_BS (UINT64_C(1) << 14)

enum step cpu_raise_error(struct cpu *cpu, enum vector vector, uint32_t error)
{
	cpu->stop = STOP_EXCEPTION;
	cpu->exception = (struct exception){.vector = vector, .has_error = 1, .error = error};
	return STEP_ABORT;
}

enum step cpu_raise(struct cpu *cpu, enum vector vector)
{
	cpu->stop = STOP_EXCEPTION;
	cpu->exception = (struct exception){.vector = vector};
	return STEP_ABORT;
}

enum step cpu_raise_page_fault(struct cpu *cpu, uint64_t linear, uint32_t error)
{
	cpu->svm.cr2_before = cpu->s.cr2;
	cpu->s.cr2 = linear;
	return cpu_raise_error(cpu, VECTOR_PF, error);
}

static int is_contributory(unsigned int vector)
{
	return vector == VECTOR_DE || (vector >= VECTOR_TS && vector <= VECTOR_GP);
}

static int makes_double_fault(const struct event *first, unsigned int second)
{
	if (first->type != EVENT_EXCEPTION)
		return 0;
	if (first->vector == VECTOR_PF)
		return second == VECTOR_PF || is_contributory(second);
	return is_contributory(first->vector) && is_contributory(second);
}

int event_queue_exception(struct cpu *cpu, const struct event *first)
{
	struct cpu_state *s = &cpu->s;
	struct exception raised = cpu->exception;

	if (first && first->type == EVENT_EXCEPTION && first->vector == VECTOR_DF)
		return 1;
	if (first && makes_double_fault(first, raised.vector))
		raised = (struct exception){.vector = VECTOR_DF, .has_error = 1};
	s->exception_pending = 1;
	s->exception_injected = 0;
	s->exception_vector = raised.vector;
	s->exception_has_error = raised.has_error && (s->cr0 & CR0_PE);
	s->exception_error = raised.error;
	s->exception_has_payload = 0;
	return 0;
}

int event_interruptible(const struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;

	if (!cpu->svm.gif || s->exception_pending || s->interrupt_injected || s->nmi_injected)
		return 0;
	if (cpu->svm.in_guest_mode)
		return svm_physical_allowed(cpu);
	return (s->rflags & FLAG_IF) && !s->interrupt_shadow;
}

int event_nmi_due(const struct cpu *cpu)
{
	const struct cpu_state *s = &cpu->s;

	return cpu->svm.gif && s->nmi_pending && !s->nmi_masked && !s->interrupt_shadow;
}

static void apply_payload(struct cpu *cpu)
{
	struct cpu_state *s = &cpu->s;

	if (!s->exception_has_payload)
		return;
	s->exception_has_payload = 0;
	if (s->exception_vector == VECTOR_PF)
		s->cr2 = s->exception_payload;
	if (s->exception_vector == VECTOR_DB)
		s->dr6 = (s->dr6 & ~UINT64_C(0xf)) | s->exception_payload;
}

/* What must be delivered before anything else is looked at. */
static int choose_waiting(struct cpu *cpu, struct event *event)
{
	struct cpu_state *s = &cpu->s;

	*event = (struct event){.return_rip = s->rip};
	if (cpu->svm.has_soft_rip)
		event->return_rip = cpu->svm.soft_rip;
	if (s->exception_pending) {
		apply_payload(cpu);
		event->type = EVENT_EXCEPTION;
		event->vector = s->exception_vector;
		event->has_error = s->exception_has_error;
		event->error = s->exception_error;
		return 1;
	}
	if (s->interrupt_injected) {
		event->type = s->interrupt_soft ? EVENT_SOFT_INTERRUPT : EVENT_INTERRUPT;
		event->vector = s->interrupt_vector;
		return 1;
	}
	if (s->nmi_injected || event_nmi_due(cpu)) {
		event->type = EVENT_NMI;
		event->vector = VECTOR_NMI;
		return 1;
	}
	return 0;
}

/* The vector of the interrupt to take, the machine's or L1's virtual one; -1: none. */
static int take_interrupt(struct cpu *cpu)
{
	int vector = -1;

	/* One that came after choose_exit() looked is L1's: its doorbell leads there again. */
	if (event_interruptible(cpu) && !svm_l1_takes_interrupts(cpu))
		vector = cpu->ops->interrupt_take(cpu->ctx);
	if (vector >= 0 || !svm_virtual_due(cpu))
		return vector;
	cpu->svm.control.int_ctl &= ~VMCB_V_IRQ;
	return cpu->svm.control.int_vector & 0xff;
}

int event_choose(struct cpu *cpu, struct event *event)
{
	struct cpu_state *s = &cpu->s;
	int vector;

	if (choose_waiting(cpu, event))
		return 1;
	vector = take_interrupt(cpu);
	if (vector < 0)
		return 0;
	s->interrupt_injected = 1;
	s->interrupt_vector = vector;
	s->interrupt_soft = 0;
	event->type = EVENT_INTERRUPT;
	event->vector = vector;
	return 1;
}

void event_done(struct cpu *cpu, const struct event *event)
{
	struct cpu_state *s = &cpu->s;

	s->halted = 0;
	cpu->svm.has_soft_rip = 0;
	switch (event->type) {
	case EVENT_EXCEPTION:
		s->exception_pending = 0;
		s->exception_injected = 0;
		break;
	case EVENT_NMI:
		if (s->nmi_injected) {
			s->nmi_injected = 0;
			break;
		}
		s->nmi_pending--;
		s->nmi_masked = 1;
		cpu_count(&cpu->counts.nmis);
		break;
	default:
		s->interrupt_injected = 0;
		break;
	}
}

/* For AMD's processors, as L2 sees one, an exception is no external event; for Intel's it is. */
static uint32_t fault_error(const struct cpu *cpu, const struct event *event,
			    uint32_t selector_or_vector)
{
	int is_external = event->type < EVENT_SOFT_INTERRUPT;

	if (cpu->svm.in_guest_mode && event->type == EVENT_EXCEPTION)
		is_external = 0;
	return selector_or_vector | (is_external ? ERROR_EXTERNAL : 0);
}

static enum step gate_fault(struct cpu *cpu, const struct event *event, enum vector vector)
{
	return cpu_raise_error(cpu, vector,
			       fault_error(cpu, event, event->vector * 8u | ERROR_IDT));
}

/* An IDT entry, decoded. */
struct gate {
	uint16_t selector;
	uint64_t offset;
	uint8_t type, dpl, ist;
};

static enum step gate_read(struct cpu *cpu, const struct event *event, struct gate *gate)
{
	unsigned int size = cpu_is_long(cpu) ? 16 : 8;
	uint64_t raw[2] = {0, 0};
	enum step step;

	if (event->vector * size + size - 1 > cpu->s.idt.limit)
		return gate_fault(cpu, event, VECTOR_GP);
	step = system_read(cpu, cpu->s.idt.base + event->vector * size, raw, size);
	if (step)
		return step;
	gate->selector = raw[0] >> 16;
	gate->offset = (raw[0] & 0xffff) | (raw[0] >> 32 & 0xffff0000) | raw[1] << 32;
	gate->type = raw[0] >> 40 & 0x1f;
	gate->dpl = raw[0] >> 45 & 3;
	gate->ist = cpu_is_long(cpu) ? raw[0] >> 32 & 7 : 0;
	if (gate->type == GATE_TASK && !cpu_is_long(cpu))
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	if (gate->type != GATE_INTERRUPT_32 && gate->type != GATE_TRAP_32 &&
	    (cpu_is_long(cpu) || (gate->type != GATE_INTERRUPT_16 && gate->type != GATE_TRAP_16)))
		return gate_fault(cpu, event, VECTOR_GP);
	if (gate->type == GATE_INTERRUPT_16 || gate->type == GATE_TRAP_16)
		gate->offset &= 0xffff;
	if (event->type >= EVENT_SOFT_INTERRUPT && gate->dpl < cpu->cpl)
		return cpu_raise_error(cpu, VECTOR_GP, event->vector * 8u | ERROR_IDT);
	if (!(raw[0] >> 47 & 1))
		return gate_fault(cpu, event, VECTOR_NP);
	return STEP_NEXT;
}

static enum step gate_target(struct cpu *cpu, const struct event *event, const struct gate *gate,
			     struct code_target *target)
{
	uint32_t error = fault_error(cpu, event, gate->selector & ~3u);
	const struct cpu_segment *segment = &target->segment;
	uint64_t descriptor;
	enum step step;

	if (!(gate->selector & ~3u))
		return cpu_raise_error(cpu, VECTOR_GP, fault_error(cpu, event, 0));
	step = descriptor_read(cpu, gate->selector, &descriptor);
	if (step)
		return step;
	target->segment = descriptor_decode(gate->selector, descriptor);
	target->selector = gate->selector;
	target->offset = gate->offset;
	if (!segment->s || !(segment->type & 8) || segment->dpl > cpu->cpl)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (cpu_is_long(cpu) && (!segment->l || segment->db))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!segment->present)
		return cpu_raise_error(cpu, VECTOR_NP, error);
	target->new_cpl = segment->type & 4 ? cpu->cpl : segment->dpl;
	step = code_target_check_offset(cpu, target);
	return step ? step : descriptor_accessed(cpu, gate->selector, descriptor);
}

/* RFLAGS as the frame shows them: RF is set for faults, and clear after INT n, INT3, INTO, INT1. */
static uint64_t frame_flags(const struct cpu *cpu, const struct event *event)
{
	uint64_t flags = flags_get(cpu);

	if (cpu->op)
		return flags & ~FLAG_RF;
	if (event->type == EVENT_EXCEPTION && event->vector != VECTOR_DB &&
	    event->vector != VECTOR_DF)
		flags |= FLAG_RF;
	return flags;
}

/*
 * An exception is no serialising event, and tells the guest nothing of what others did. What comes
 * from outside may tell it of code that is new in memory.
 */
static void enter_handler(struct cpu *cpu, const struct event *event, const struct gate *gate,
			  const struct code_target *target)
{
	cpu->s.rflags &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (gate->type == GATE_INTERRUPT_32 || gate->type == GATE_INTERRUPT_16)
		cpu->s.rflags &= ~FLAG_IF;
	code_target_commit(cpu, target);
	cpu_update_mode(cpu);
	if (event->type != EVENT_EXCEPTION)
		code_serialise(cpu);
}

/* Stack pointer @index of the 64-bit TSS: 0 .. 2 RSPn, 3 reserved, 4 .. 10 IST1 .. 7. */
static enum step tss64_stack(struct cpu *cpu, unsigned int index, uint64_t *rsp)
{
	const struct cpu_segment *tss = &cpu->s.seg[CPU_TR];
	uint32_t offset = 4 + index * 8;

	if (tss->unusable || offset + 7 > tss->limit)
		return cpu_raise_error(cpu, VECTOR_TS, tss->selector & ~3u);
	return system_read(cpu, tss->base + offset, rsp, sizeof(*rsp));
}

/* Write the frame with the rights of the new privilege level. */
static enum step push_frame(struct cpu *cpu, unsigned int new_cpl, uint64_t linear,
			    const void *frame, unsigned int size_bytes)
{
	unsigned int saved = cpu->tlb_mode;
	enum step step;

	if (new_cpl != 3)
		cpu->tlb_mode = (cpu->s.cr4 & CR4_SMAP) && !(cpu->s.rflags & FLAG_AC)
				    ? TLB_SMAP
				    : TLB_SUPERVISOR;
	step = mem_write(cpu, linear, frame, size_bytes);
	cpu->tlb_mode = saved;
	return step;
}

static enum step deliver_long(struct cpu *cpu, const struct event *event)
{
	struct cpu_state *s = &cpu->s;
	struct code_target target;
	struct gate gate;
	uint64_t rsp = s->gpr[CPU_RSP], frame[6];
	unsigned int words = event->has_error ? 6 : 5;
	uint64_t *top = frame + (event->has_error ? 1 : 0);
	enum step step = gate_read(cpu, event, &gate);

	if (!step)
		step = gate_target(cpu, event, &gate, &target);
	if (!step && gate.ist)
		step = tss64_stack(cpu, gate.ist + 3u, &rsp);
	else if (!step && target.new_cpl < cpu->cpl)
		step = tss64_stack(cpu, target.new_cpl, &rsp);
	if (step)
		return step;
	rsp = (rsp & ~UINT64_C(15)) - words * 8;
	frame[0] = event->error;
	top[0] = event->return_rip;
	top[1] = s->seg[CPU_CS].selector;
	top[2] = frame_flags(cpu, event);
	top[3] = s->gpr[CPU_RSP];
	top[4] = s->seg[CPU_SS].selector;
	step = push_frame(cpu, target.new_cpl, rsp, frame, words * 8);
	if (step)
		return step;
	if (target.new_cpl != cpu->cpl)
		s->seg[CPU_SS] = (struct cpu_segment){
		    .selector = target.new_cpl, .dpl = target.new_cpl, .unusable = 1};
	s->gpr[CPU_RSP] = rsp;
	enter_handler(cpu, event, &gate, &target);
	return STEP_JUMP;
}

/*
 * What 32-bit and 16-bit gates and real mode push on @stack: @count words of @frame, the first one
 * deepest, below @esp. A stack pointer of 16 bits may wrap between two of them.
 */
struct pushed {
	const struct cpu_segment *stack;
	const uint32_t *frame;
	uint32_t esp;
	unsigned int count, word_bytes;
	uint32_t error; /* of #SS */
};

static enum step push_words(struct cpu *cpu, unsigned int new_cpl, const struct pushed *pushed)
{
	uint32_t mask = pushed->stack->db ? UINT32_MAX : 0xffff;
	unsigned int size = pushed->word_bytes;
	enum step step = STEP_NEXT;

	for (unsigned int i = 0; i < pushed->count; i++)
		if (!segment_permits(pushed->stack, (pushed->esp - size * (i + 1)) & mask, size))
			return cpu_raise_error(cpu, VECTOR_SS, pushed->error);
	for (unsigned int i = 0; !step && i < pushed->count; i++) {
		uint32_t at = (pushed->esp - size * (i + 1)) & mask;

		step = push_frame(cpu, new_cpl, (uint32_t)(pushed->stack->base + at),
				  &pushed->frame[pushed->count - 1 - i], size);
	}
	return step;
}

static enum step deliver_real(struct cpu *cpu, const struct event *event)
{
	struct cpu_state *s = &cpu->s;
	uint32_t frame[3] = {event->return_rip, s->seg[CPU_CS].selector, flags_get(cpu)};
	const struct pushed pushed = {&s->seg[CPU_SS], frame, s->gpr[CPU_RSP], 3, 2, 0};
	uint16_t entry[2];
	enum step step;

	if (event->vector * 4u + 3 > s->idt.limit)
		return cpu_raise(cpu, event->vector == VECTOR_DF ? VECTOR_DF : VECTOR_GP);
	step = system_read(cpu, s->idt.base + event->vector * 4u, entry, sizeof(entry));
	if (!step)
		step = push_words(cpu, 0, &pushed);
	if (step)
		return step;
	reg_set(cpu, offsetof(struct cpu, s.gpr[CPU_RSP]), s->seg[CPU_SS].db ? 4 : 2,
		s->gpr[CPU_RSP] - sizeof(uint16_t) * 3);
	s->rflags &= ~(FLAG_IF | FLAG_TF | FLAG_RF | FLAG_AC);
	segment_load_real(cpu, CPU_CS, entry[1]);
	s->rip = entry[0];
	cpu_update_mode(cpu);
	code_serialise(cpu);
	return STEP_JUMP;
}

/* SS:ESP or SS:SP of the TSS. */
static enum step tss_stack_read(struct cpu *cpu, const struct event *event, unsigned int cpl,
				uint16_t *selector, uint32_t *esp)
{
	const struct cpu_segment *tss = &cpu->s.seg[CPU_TR];
	unsigned int size = (tss->type & ~TSS_BUSY) == TSS_16 ? 2 : 4;
	uint32_t offset = size + cpl * size * 2, raw[2] = {0};
	uint16_t halves[2];
	enum step step;

	if (tss->unusable || offset + size * 2 - 1 > tss->limit)
		return cpu_raise_error(cpu, VECTOR_TS,
				       fault_error(cpu, event, tss->selector & ~3u));
	step = system_read(cpu, tss->base + offset, raw, size * 2);
	memcpy(halves, raw, sizeof(halves));
	*selector = size == 2 ? halves[1] : (uint16_t)raw[1];
	*esp = size == 2 ? halves[0] : raw[0];
	return step;
}

/* The new stack of a more privileged level, checked. */
static enum step tss_stack(struct cpu *cpu, const struct event *event, unsigned int cpl,
			   struct cpu_segment *stack, uint32_t *esp)
{
	uint64_t descriptor;
	uint16_t selector = 0;
	uint32_t error;
	enum step step = tss_stack_read(cpu, event, cpl, &selector, esp);

	if (step)
		return step;
	error = fault_error(cpu, event, selector & ~3u);
	if (!(selector & ~3u))
		return cpu_raise_error(cpu, VECTOR_TS, error);
	step = descriptor_read(cpu, selector, &descriptor);
	if (step && cpu->stop == STOP_EXCEPTION && cpu->exception.vector == VECTOR_GP)
		return cpu_raise_error(cpu, VECTOR_TS, error);
	if (step)
		return step;
	*stack = descriptor_decode(selector, descriptor);
	if (!stack->s || (stack->type & 8) || !(stack->type & 2) || stack->dpl != cpl ||
	    (selector & 3u) != cpl)
		return cpu_raise_error(cpu, VECTOR_TS, error);
	if (!stack->present)
		return cpu_raise_error(cpu, VECTOR_SS, error);
	stack->type |= 1;
	return descriptor_accessed(cpu, selector, descriptor);
}

static enum step deliver_protected(struct cpu *cpu, const struct event *event)
{
	struct cpu_state *s = &cpu->s;
	struct cpu_segment stack = s->seg[CPU_SS];
	uint32_t esp = s->gpr[CPU_RSP], frame[6];
	struct pushed pushed = {.stack = &stack, .frame = frame};
	uint32_t *top = frame;
	struct code_target target;
	struct gate gate;
	enum step step = gate_read(cpu, event, &gate);

	if (!step)
		step = gate_target(cpu, event, &gate, &target);
	if (!step && target.new_cpl < cpu->cpl)
		step = tss_stack(cpu, event, target.new_cpl, &stack, &esp);
	if (step)
		return step;
	if (s->rflags & FLAG_VM)
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	if (event->has_error)
		*top++ = event->error;
	top[0] = event->return_rip;
	top[1] = s->seg[CPU_CS].selector;
	top[2] = frame_flags(cpu, event);
	top[3] = s->gpr[CPU_RSP];
	top[4] = s->seg[CPU_SS].selector;
	pushed.count = (event->has_error ? 1 : 0) + (target.new_cpl < cpu->cpl ? 5 : 3);
	pushed.word_bytes = gate.type >= GATE_INTERRUPT_32 ? 4 : 2;
	pushed.esp = esp;
	pushed.error =
	    fault_error(cpu, event, target.new_cpl < cpu->cpl ? stack.selector & ~3u : 0);
	step = push_words(cpu, target.new_cpl, &pushed);
	if (step)
		return step;
	s->seg[CPU_SS] = stack;
	reg_set(cpu, offsetof(struct cpu, s.gpr[CPU_RSP]), stack.db ? 4 : 2,
		esp - pushed.count * pushed.word_bytes);
	enter_handler(cpu, event, &gate, &target);
	return STEP_JUMP;
}

enum step event_deliver(struct cpu *cpu, const struct event *event)
{
	enum step step;

	cpu->delivering = 1;
	cpu->soft.type = event->type;
	cpu->soft.vector = event->vector;
	cpu->replay.position = 0;
	if (!(cpu->s.cr0 & CR0_PE))
		step = deliver_real(cpu, event);
	else if (cpu_is_long(cpu))
		step = deliver_long(cpu, event);
	else
		step = deliver_protected(cpu, event);
	if (step == STEP_ABORT)
		return step;
	cpu->delivering = 0;
	/* The handler of #DB may use the debug registers. */
	if (event->type == EVENT_EXCEPTION && event->vector == VECTOR_DB)
		cpu->s.dr7 &= ~DR7_GD;
	return step;
}
