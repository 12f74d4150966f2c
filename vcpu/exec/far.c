/*
 * Transfers that load CS: far jumps, calls and returns, IRET. Call gates and task switches are not
 * there: they end in CPU_EXIT_EMULATION.
 */
#include "vcpu/exec/far.h"

#include "vcpu/decode/code.h"
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/event.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

#define TYPE_CODE 8u
#define TYPE_CONFORMING 4u

/* Where a far pointer leads. */
struct far_pointer {
	uint16_t selector;
	uint64_t offset;
};

static enum step pointer_read(struct cpu *cpu, const struct op *op, struct far_pointer *pointer)
{
	uint64_t selector;
	enum step step;

	if (op->kind[0] == OPERAND_IMM) {
		pointer->selector = op->disp;
		pointer->offset = op->imm;
		return STEP_NEXT;
	}
	step = op_load_part(cpu, op, 0, op->size, &pointer->offset);
	if (!step)
		step = op_load_part(cpu, op, op->size, 2, &selector);
	if (!step)
		pointer->selector = selector;
	return step;
}

/* In real mode the limit of CS stays what it is. */
static enum step check_real(struct cpu *cpu, const struct far_pointer *pointer)
{
	return pointer->offset <= cpu->s.seg[CPU_CS].limit ? STEP_NEXT
							   : cpu_raise_error(cpu, VECTOR_GP, 0);
}

static void target_real(struct cpu *cpu, const struct far_pointer *pointer)
{
	segment_load_real(cpu, CPU_CS, pointer->selector);
	cpu->s.rip = pointer->offset;
}

static int code_permits(const struct cpu *cpu, const struct cpu_segment *segment, unsigned int rpl)
{
	if (segment->type & TYPE_CONFORMING)
		return segment->dpl <= cpu->cpl;
	return segment->dpl == cpu->cpl && rpl <= cpu->cpl;
}

/* The code segment of a jump or call, same privilege. */
static enum step target_find(struct cpu *cpu, const struct far_pointer *pointer,
			     struct code_target *target)
{
	uint32_t error = pointer->selector & ~3u;
	uint64_t descriptor;
	enum step step;

	if (!error)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = descriptor_read(cpu, pointer->selector, &descriptor);
	if (step)
		return step;
	*target = (struct code_target){
	    .selector = pointer->selector,
	    .offset = pointer->offset,
	    .new_cpl = cpu->cpl,
	    .segment = descriptor_decode(pointer->selector, descriptor),
	};
	if (!target->segment.s)
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	if (!(target->segment.type & TYPE_CODE) ||
	    !code_permits(cpu, &target->segment, pointer->selector & 3))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (cpu_is_long(cpu) && target->segment.l && target->segment.db)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!target->segment.present)
		return cpu_raise_error(cpu, VECTOR_NP, error);
	step = code_target_check_offset(cpu, target);
	return step ? step : descriptor_accessed(cpu, pointer->selector, descriptor);
}

static enum step far_jmp(struct cpu *cpu, const struct op *op)
{
	struct code_target target;
	struct far_pointer pointer;
	enum step step = pointer_read(cpu, op, &pointer);

	if (step)
		return step;
	if (cpu_is_protected(cpu)) {
		step = target_find(cpu, &pointer, &target);
		if (step)
			return step;
		code_target_commit(cpu, &target);
	} else {
		step = check_real(cpu, &pointer);
		if (step)
			return step;
		target_real(cpu, &pointer);
	}
	cpu_update_mode(cpu);
	return STEP_JUMP;
}

static enum step far_call(struct cpu *cpu, const struct op *op)
{
	struct code_target target;
	struct far_pointer pointer;
	unsigned int size = op->size;
	enum step step = pointer_read(cpu, op, &pointer);

	if (!step)
		step = cpu_is_protected(cpu) ? target_find(cpu, &pointer, &target)
					     : check_real(cpu, &pointer);
	if (!step)
		step = stack_poke(cpu, -(int)size, size, cpu->s.seg[CPU_CS].selector);
	if (!step)
		step = stack_poke(cpu, -(int)size * 2, size, op_next_rip(cpu, op));
	if (step)
		return step;
	stack_move(cpu, -(int)size * 2);
	if (cpu_is_protected(cpu))
		code_target_commit(cpu, &target);
	else
		target_real(cpu, &pointer);
	cpu_update_mode(cpu);
	return STEP_JUMP;
}

/* What a return takes from the stack. */
struct return_frame {
	struct far_pointer to;
	uint64_t flags;
	uint64_t rsp;
	uint16_t ss;
	uint8_t has_stack;
};

/* CS of a return: to the same privilege or an outer one. */
static enum step return_target(struct cpu *cpu, const struct return_frame *frame,
			       struct code_target *target)
{
	uint32_t error = frame->to.selector & ~3u;
	unsigned int rpl = frame->to.selector & 3;
	const struct cpu_segment *segment = &target->segment;
	uint64_t descriptor;
	enum step step;

	if (!error)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = descriptor_read(cpu, frame->to.selector, &descriptor);
	if (step)
		return step;
	*target = (struct code_target){
	    .selector = frame->to.selector,
	    .offset = frame->to.offset,
	    .new_cpl = rpl,
	    .segment = descriptor_decode(frame->to.selector, descriptor),
	};
	if (!segment->s || !(segment->type & TYPE_CODE) || rpl < cpu->cpl)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (segment->type & TYPE_CONFORMING ? segment->dpl > rpl : segment->dpl != rpl)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (cpu_is_long(cpu) && segment->l && segment->db)
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!segment->present)
		return cpu_raise_error(cpu, VECTOR_NP, error);
	step = code_target_check_offset(cpu, target);
	return step ? step : descriptor_accessed(cpu, frame->to.selector, descriptor);
}

/* SS of a return, for the privilege level the return goes to. */
static enum step return_stack(struct cpu *cpu, const struct return_frame *frame,
			      const struct code_target *target, struct cpu_segment *stack)
{
	uint32_t error = frame->ss & ~3u;
	unsigned int cpl = target->new_cpl;
	uint64_t descriptor;
	enum step step;

	if (!error) {
		if (!(cpu_is_long(cpu) && target->segment.l) || cpl == 3 || (frame->ss & 3) != cpl)
			return cpu_raise_error(cpu, VECTOR_GP, 0);
		*stack = (struct cpu_segment){.selector = frame->ss, .dpl = cpl, .unusable = 1};
		return STEP_NEXT;
	}
	step = descriptor_read(cpu, frame->ss, &descriptor);
	if (step)
		return step;
	*stack = descriptor_decode(frame->ss, descriptor);
	if ((frame->ss & 3) != cpl || stack->dpl != cpl || !stack->s || (stack->type & TYPE_CODE) ||
	    !(stack->type & 2))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!stack->present)
		return cpu_raise_error(cpu, VECTOR_SS, error);
	stack->type |= 1;
	return descriptor_accessed(cpu, frame->ss, descriptor);
}

/* Data segments that the outer level may not use become null. */
static void drop_inner_segments(struct cpu *cpu)
{
	static const uint8_t data[] = {CPU_ES, CPU_DS, CPU_FS, CPU_GS};

	for (unsigned int i = 0; i < sizeof(data); i++) {
		struct cpu_segment *segment = &cpu->s.seg[data[i]];
		int conforming = (segment->type & (TYPE_CODE | TYPE_CONFORMING)) ==
				 (TYPE_CODE | TYPE_CONFORMING);

		if (!segment->unusable && !conforming && segment->dpl < cpu->cpl)
			*segment = (struct cpu_segment){.base = segment->base, .unusable = 1};
	}
}

/* Everything is checked: go there. */
static void return_commit(struct cpu *cpu, const struct return_frame *frame,
			  const struct code_target *target, const struct cpu_segment *stack)
{
	unsigned int old_cpl = cpu->cpl;

	code_target_commit(cpu, target);
	if (frame->has_stack) {
		cpu->s.seg[CPU_SS] = *stack;
		cpu_update_mode(cpu);
		reg_set(cpu, GPR_OFFSET(CPU_RSP), cpu->stack_bytes, frame->rsp);
	}
	cpu_update_mode(cpu);
	if (cpu->cpl != old_cpl)
		drop_inner_segments(cpu);
	code_serialise(cpu);
}

static enum step far_ret(struct cpu *cpu, const struct op *op)
{
	unsigned int size = op->size;
	uint64_t release = op->kind[0] == OPERAND_IMM ? (uint16_t)op->imm : 0, selector, ss = 0;
	struct return_frame frame = {0};
	struct cpu_segment stack = {0};
	struct code_target target;
	enum step step = stack_peek(cpu, 0, size, &frame.to.offset);

	if (!step)
		step = stack_peek(cpu, size, size, &selector);
	if (step)
		return step;
	frame.to.selector = selector;
	if (!cpu_is_protected(cpu)) {
		step = check_real(cpu, &frame.to);
		if (step)
			return step;
		stack_move(cpu, size * 2 + release);
		target_real(cpu, &frame.to);
		cpu_update_mode(cpu);
		return STEP_JUMP;
	}
	step = return_target(cpu, &frame, &target);
	if (!step && target.new_cpl > cpu->cpl) {
		frame.has_stack = 1;
		step = stack_peek(cpu, size * 2 + release, size, &frame.rsp);
		if (!step)
			step = stack_peek(cpu, size * 3 + release, size, &ss);
		frame.ss = ss;
		frame.rsp += release;
		if (!step)
			step = return_stack(cpu, &frame, &target, &stack);
	}
	if (step)
		return step;
	if (!frame.has_stack)
		stack_move(cpu, size * 2 + release);
	return_commit(cpu, &frame, &target, &stack);
	return STEP_JUMP;
}

/* Which flags IRET may change at this privilege. */
static uint64_t flags_writable(const struct cpu *cpu, unsigned int size)
{
	uint64_t mask = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT;

	if (size > 2)
		mask |= FLAG_AC | FLAG_ID | FLAG_RF;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	if (cpu->cpl <= (cpu->s.rflags >> 12 & 3))
		mask |= FLAG_IF;
	return mask;
}

/* IRET leaves RF as it has loaded it, where any other instruction ends with RF clear. */
static void iret_flags(struct cpu *cpu, uint64_t flags, uint64_t mask)
{
	flags_set(cpu, (flags_get(cpu) & ~mask) | (flags & mask));
	cpu->debug.passing = 0;
}

static enum step iret_real(struct cpu *cpu, const struct op *op)
{
	unsigned int size = op->aux;
	struct far_pointer to;
	uint64_t selector, flags, mask;
	enum step step = stack_peek(cpu, 0, size, &to.offset);

	if (!step)
		step = stack_peek(cpu, size, size, &selector);
	if (!step)
		step = stack_peek(cpu, size * 2, size, &flags);
	if (!step)
		step = check_real(cpu, &to);
	if (step)
		return step;
	mask = flags_writable(cpu, size);
	to.selector = selector;
	stack_move(cpu, size * 3);
	target_real(cpu, &to);
	iret_flags(cpu, flags, mask);
	cpu->s.nmi_masked = 0;
	cpu_update_mode(cpu);
	return STEP_JUMP_EVENTS;
}

static enum step iret_read(struct cpu *cpu, unsigned int size, struct return_frame *frame)
{
	uint64_t selector = 0, ss = 0;
	enum step step = stack_peek(cpu, 0, size, &frame->to.offset);

	if (!step)
		step = stack_peek(cpu, size, size, &selector);
	if (!step)
		step = stack_peek(cpu, size * 2, size, &frame->flags);
	frame->to.selector = selector;
	frame->has_stack = size == 8 || cpu->code_bytes == 8 || (selector & 3) > cpu->cpl;
	if (!step && frame->has_stack)
		step = stack_peek(cpu, size * 3, size, &frame->rsp);
	if (!step && frame->has_stack)
		step = stack_peek(cpu, size * 4, size, &ss);
	frame->ss = ss;
	return step;
}

enum step far_iret(struct cpu *cpu, const struct op *op)
{
	struct return_frame frame = {0};
	struct cpu_segment stack = {0};
	struct code_target target;
	uint64_t mask, old = cpu->s.rflags;
	int was_masked = cpu->s.nmi_masked;
	enum step step = svm_intercept(cpu, INTERCEPT_IRET);

	if (step)
		return step;
	if (!(cpu->s.cr0 & CR0_PE))
		return iret_real(cpu, op);
	if (cpu->s.rflags & (FLAG_VM | FLAG_NT))
		return (cpu->s.rflags & FLAG_VM) || !cpu_is_long(cpu)
			   ? cpu_stop_exit(cpu, CPU_EXIT_EMULATION)
			   : cpu_raise_error(cpu, VECTOR_GP, 0);
	step = iret_read(cpu, op->aux, &frame);
	/* Back to virtual-8086 mode. */
	if (!step && !cpu_is_long(cpu) && !cpu->cpl && op->aux == 4 && (frame.flags & FLAG_VM))
		return cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
	if (!step)
		step = return_target(cpu, &frame, &target);
	if (!step && frame.has_stack)
		step = return_stack(cpu, &frame, &target, &stack);
	if (step)
		return step;
	mask = flags_writable(cpu, op->aux);
	if (!frame.has_stack)
		stack_move(cpu, op->aux * 3);
	iret_flags(cpu, frame.flags, mask);
	return_commit(cpu, &frame, &target, &stack);
	cpu->s.nmi_masked = 0;
	if (was_masked || cpu->svm.in_guest_mode)
		return STEP_JUMP_EVENTS;
	return STEP_JUMP | event_allowed(cpu, old);
}

op_fn far_bind_jmp(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	return far_jmp;
}

op_fn far_bind_call(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	return far_call;
}

op_fn far_bind_ret(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	return far_ret;
}
