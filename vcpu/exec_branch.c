/* Near control transfers. */
#include "vcpu/exec.h"
#include "vcpu/far.h"

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

static enum step jmp_relative(struct cpu *cpu, const struct op *op)
{
	cpu->s.rip = branch_target(cpu, op);
	return STEP_JUMP;
}

/* The loops of the dispatcher test the step anyway: a branch not taken goes on in its block. */
#define JCC(name, code)                                                 \
	static enum step j_##name(struct cpu *cpu, const struct op *op) \
	{                                                               \
		if (!flag_condition(cpu, code))                         \
			return STEP_NEXT;                               \
		cpu->s.rip = branch_target(cpu, op);                    \
		return STEP_JUMP;                                       \
	}
CONDITIONS(JCC)

static enum step jmp_indirect(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = op_read(cpu, op, 0, op->size, &target);

	if (step)
		return step;
	cpu->s.rip = cut_target(cpu, op, target);
	return STEP_JUMP;
}

static enum step call_relative(struct cpu *cpu, const struct op *op)
{
	enum step step = stack_push(cpu, op->size, op_next_rip(cpu, op));

	if (step)
		return step;
	cpu->s.rip = branch_target(cpu, op);
	return STEP_JUMP;
}

static enum step call_indirect(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = op_read(cpu, op, 0, op->size, &target);

	if (!step)
		step = stack_push(cpu, op->size, op_next_rip(cpu, op));
	if (step)
		return step;
	cpu->s.rip = cut_target(cpu, op, target);
	return STEP_JUMP;
}

static enum step ret_near(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = stack_pop(cpu, op->size, &target);

	if (step)
		return step;
	stack_move(cpu, op->kind[0] == OPERAND_IMM ? (int64_t)(uint16_t)op->imm : 0);
	cpu->s.rip = cut_target(cpu, op, target);
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
	cpu->s.rip = branch_target(cpu, op);
	return STEP_JUMP;
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
