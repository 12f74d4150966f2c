/* Near control transfers. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/far.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/raise.h"

/* RIP cut to the operand size; 64-bit mode ignores a 66 prefix here. */
static inline uint64_t branch_target(const struct cpu *cpu, const struct op *op)
{
	uint64_t target = cpu->s.rip + op->length + op->imm;

	if (cpu->code_bytes == 8)
		return target;
	return op->size == 2 ? (uint16_t)target : (uint32_t)target;
}

static uint64_t cut_target(const struct cpu *cpu, const struct op *op, uint64_t target)
{
	if (cpu->code_bytes == 8)
		return target;
	return op->size == 2 ? (uint16_t)target : (uint32_t)target;
}

/* Can code be at @target? Else #GP belongs to the branch. */
static inline enum step target_check(struct cpu *cpu, uint64_t target)
{
	if (likely(cpu->code_bytes == 8)) {
		if (likely(mmu_is_canonical_now(cpu, target)))
			return STEP_NEXT;
	} else if (likely(target <= cpu->s.seg[CPU_CS].limit)) {
		return STEP_NEXT;
	}
	return cpu_raise_error(cpu, VECTOR_GP, 0);
}

static inline enum step jump_to(struct cpu *cpu, uint64_t target)
{
	enum step step = target_check(cpu, target);

	if (unlikely(step))
		return step;
	cpu->s.rip = target;
	return STEP_JUMP;
}

static enum step jmp_relative(struct cpu *cpu, const struct op *op)
{
	return jump_to(cpu, branch_target(cpu, op));
}

/* The loops of the dispatcher test the step anyway: a branch not taken goes on in its block. */
#define JCC(name, code)                                                 \
	static enum step j_##name(struct cpu *cpu, const struct op *op) \
	{                                                               \
		if (!flag_condition(cpu, code))                         \
			return STEP_NEXT;                               \
		return jump_to(cpu, branch_target(cpu, op));            \
	}
CONDITIONS(JCC)

static enum step jmp_indirect(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = op_read(cpu, op, 0, op->size, &target);

	return step ? step : jump_to(cpu, cut_target(cpu, op, target));
}

/* Nothing is pushed for a call that leads nowhere. */
static enum step call_to(struct cpu *cpu, const struct op *op, uint64_t target)
{
	enum step step = target_check(cpu, target);

	if (likely(!step))
		step = stack_push(cpu, op->size, op_next_rip(cpu, op));
	if (unlikely(step))
		return step;
	cpu->s.rip = target;
	return STEP_JUMP;
}

static enum step call_relative(struct cpu *cpu, const struct op *op)
{
	return call_to(cpu, op, branch_target(cpu, op));
}

static enum step call_indirect(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = op_read(cpu, op, 0, op->size, &target);

	return step ? step : call_to(cpu, op, cut_target(cpu, op, target));
}

static enum step ret_near(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = stack_peek(cpu, 0, op->size, &target);

	if (unlikely(step))
		return step;
	target = cut_target(cpu, op, target);
	step = target_check(cpu, target);
	if (unlikely(step))
		return step;
	stack_move(cpu, op->size + (op->kind[0] == OPERAND_IMM ? (int64_t)(uint16_t)op->imm : 0));
	cpu->s.rip = target;
	return STEP_JUMP;
}

/* In 64-bit mode near branches are always 64 bits wide. */
static void branch_size(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->code_bytes == 8 ? 8 : decoded->insn.operand_width / 8;
}

static op_fn bind_jmp(struct op *op, const struct decoded *decoded)
{
	if (decoded->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return far_bind_jmp(op, decoded);
	branch_size(op, decoded);
	return op->kind[0] == OPERAND_IMM ? jmp_relative : jmp_indirect;
}

static op_fn bind_call(struct op *op, const struct decoded *decoded)
{
	if (decoded->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return far_bind_call(op, decoded);
	branch_size(op, decoded);
	return op->kind[0] == OPERAND_IMM ? call_relative : call_indirect;
}

static op_fn bind_ret(struct op *op, const struct decoded *decoded)
{
	if (decoded->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return far_bind_ret(op, decoded);
	branch_size(op, decoded);
	return ret_near;
}

#define JCC_BIND(name, code)                                                     \
	static op_fn bind_j_##name(struct op *op, const struct decoded *decoded) \
	{                                                                        \
		branch_size(op, decoded);                                        \
		return j_##name;                                                 \
	}
CONDITIONS(JCC_BIND)

enum loop_kind { LOOP_ALWAYS, LOOP_EQUAL, LOOP_NOT_EQUAL };

static enum step loop(struct cpu *cpu, const struct op *op)
{
	uint64_t count = (cpu->s.gpr[CPU_RCX] - 1) & size_mask(op->address_bytes);
	int taken = count != 0;

	if (op->aux == LOOP_EQUAL)
		taken &= flag_zf(cpu);
	if (op->aux == LOOP_NOT_EQUAL)
		taken &= !flag_zf(cpu);
	if (taken && target_check(cpu, branch_target(cpu, op)))
		return STEP_ABORT;
	reg_set(cpu, GPR_OFFSET(CPU_RCX), op->address_bytes, count);
	if (!taken)
		return STEP_NEXT;
	cpu->s.rip = branch_target(cpu, op);
	return STEP_JUMP;
}

static enum step jrcxz(struct cpu *cpu, const struct op *op)
{
	if (reg_get(cpu, GPR_OFFSET(CPU_RCX), op->aux))
		return STEP_NEXT;
	return jump_to(cpu, branch_target(cpu, op));
}

static op_fn bind_loop(struct op *op, const struct decoded *decoded)
{
	branch_size(op, decoded);
	return loop;
}

static op_fn bind_jrcxz(struct op *op, const struct decoded *decoded)
{
	branch_size(op, decoded);
	return jrcxz;
}

#define JCC_ROW(name, code) {ZYDIS_MNEMONIC_J##name, NULL, bind_j_##name, code},

const struct insn_desc exec_branch_table[] = {
    {ZYDIS_MNEMONIC_JMP, NULL, bind_jmp, 0},
    {ZYDIS_MNEMONIC_CALL, NULL, bind_call, 0},
    {ZYDIS_MNEMONIC_RET, NULL, bind_ret, 0},
    CONDITIONS(JCC_ROW){ZYDIS_MNEMONIC_LOOP, NULL, bind_loop, LOOP_ALWAYS},
    {ZYDIS_MNEMONIC_LOOPE, NULL, bind_loop, LOOP_EQUAL},
    {ZYDIS_MNEMONIC_LOOPNE, NULL, bind_loop, LOOP_NOT_EQUAL},
    {ZYDIS_MNEMONIC_JCXZ, NULL, bind_jrcxz, 2},
    {ZYDIS_MNEMONIC_JECXZ, NULL, bind_jrcxz, 4},
    {ZYDIS_MNEMONIC_JRCXZ, NULL, bind_jrcxz, 8},
    {ZYDIS_MNEMONIC_IRET, far_iret, NULL, 2},
    {ZYDIS_MNEMONIC_IRETD, far_iret, NULL, 4},
    {ZYDIS_MNEMONIC_IRETQ, far_iret, NULL, 8},
    {0, NULL, NULL, 0},
};
