/* What 64-bit mode has no room for: decimal adjustments, BOUND, ARPL, SALC. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

#define AL_BITS UINT64_C(0xff)
#define AX_BITS UINT64_C(0xffff)

static uint8_t get_al(const struct cpu *cpu)
{
	return (uint8_t)cpu->s.gpr[CPU_RAX];
}

static void set_ax(struct cpu *cpu, unsigned int value)
{
	cpu->s.gpr[CPU_RAX] = (cpu->s.gpr[CPU_RAX] & ~AX_BITS) | (value & AX_BITS);
}

static void set_al(struct cpu *cpu, unsigned int value)
{
	cpu->s.gpr[CPU_RAX] = (cpu->s.gpr[CPU_RAX] & ~AL_BITS) | (value & AL_BITS);
}

/* ZF, SF and PF of AL; CF and AF as in @flags; OF, which is undefined, clear. */
static void set_flags(struct cpu *cpu, uint64_t flags)
{
	uint8_t al = get_al(cpu);

	flags &= FLAG_CF | FLAG_AF;
	if (!al)
		flags |= FLAG_ZF;
	if (al & 0x80)
		flags |= FLAG_SF;
	if (!__builtin_parity(al))
		flags |= FLAG_PF;
	flags_set_arithmetic(cpu, flags);
}

/* Does the low digit need its six? */
static int low_is_over(const struct cpu *cpu, uint64_t flags)
{
	return (get_al(cpu) & 0xf) > 9 || (flags & FLAG_AF);
}

/* DAA, and DAS with aux: six to each digit that has overflowed. */
static enum step adjust_packed(struct cpu *cpu, const struct op *op)
{
	uint64_t old = flags_arithmetic(cpu), flags = 0;
	unsigned int al = get_al(cpu), by = 0;

	if (low_is_over(cpu, old)) {
		by = 6;
		flags = FLAG_AF;
	}
	if (al > 0x99 || (old & FLAG_CF)) {
		by += 0x60;
		flags |= FLAG_CF;
	}
	/* The borrow of the first six counts, too. */
	if (op->aux && (flags & FLAG_AF) && al < 6)
		flags |= FLAG_CF;
	set_al(cpu, op->aux ? al - by : al + by);
	set_flags(cpu, flags);
	return STEP_NEXT;
}

/* AAA, and AAS with aux: one digit, its carry into AH. */
static enum step adjust_digit(struct cpu *cpu, const struct op *op)
{
	unsigned int ax = cpu->s.gpr[CPU_RAX] & AX_BITS;
	uint64_t flags = 0;

	if (low_is_over(cpu, flags_arithmetic(cpu))) {
		ax = op->aux ? ax - 0x106 : ax + 0x106;
		flags = FLAG_AF | FLAG_CF;
	}
	set_ax(cpu, ax & 0xff0f);
	set_flags(cpu, flags);
	return STEP_NEXT;
}

static enum step aam(struct cpu *cpu, const struct op *op)
{
	uint8_t base = (uint8_t)op->imm, al = get_al(cpu);

	if (!base)
		return cpu_raise(cpu, VECTOR_DE);
	set_ax(cpu, (unsigned int)(al / base) << 8 | al % base);
	set_flags(cpu, 0);
	return STEP_NEXT;
}

static enum step aad(struct cpu *cpu, const struct op *op)
{
	unsigned int ax = cpu->s.gpr[CPU_RAX] & AX_BITS;

	set_ax(cpu, ((ax & 0xff) + (ax >> 8) * (uint8_t)op->imm) & 0xff);
	set_flags(cpu, 0);
	return STEP_NEXT;
}

static enum step salc(struct cpu *cpu, const struct op *op)
{
	set_al(cpu, flag_cf(cpu) ? 0xff : 0);
	return STEP_NEXT;
}

/* The bounds lie one behind the other; all three are signed. */
static enum step bound(struct cpu *cpu, const struct op *op)
{
	int64_t index = (int64_t)sign_extend(reg_get(cpu, op->dst, op->size), op->size);
	uint64_t lower, upper;
	enum step step = op_load_part(cpu, op, 0, op->size, &lower);

	if (!step)
		step = op_load_part(cpu, op, op->size, op->size, &upper);
	if (step)
		return step;
	if (index < (int64_t)sign_extend(lower, op->size) ||
	    index > (int64_t)sign_extend(upper, op->size))
		return cpu_raise(cpu, VECTOR_BR);
	return STEP_NEXT;
}

/* A selector is given no more privilege than another has. */
static enum step arpl(struct cpu *cpu, const struct op *op)
{
	uint64_t rpl = reg_get(cpu, op->src, 2) & 3, selector, linear = 0;
	int is_memory = op->kind[0] == OPERAND_MEM;
	enum step step = STEP_NEXT;

	if (!(cpu->s.cr0 & CR0_PE) || (cpu->s.rflags & FLAG_VM))
		return cpu_raise(cpu, VECTOR_UD);
	if (is_memory)
		step = op_linear(cpu, op, &linear);
	if (!step && is_memory)
		step = mem_load(cpu, linear, 2, &selector);
	if (step)
		return step;
	if (!is_memory)
		selector = reg_get(cpu, op->dst, 2);
	if ((selector & 3) >= rpl) {
		flags_set_arithmetic(cpu, flags_arithmetic(cpu) & ~FLAG_ZF);
		return STEP_NEXT;
	}
	selector = (selector & ~UINT64_C(3)) | rpl;
	if (is_memory)
		step = mem_store(cpu, linear, 2, selector);
	else
		reg_set(cpu, op->dst, 2, selector);
	if (!step)
		flags_set_arithmetic(cpu, flags_arithmetic(cpu) | FLAG_ZF);
	return step;
}

const struct insn_desc exec_bcd_table[] = {
    {ZYDIS_MNEMONIC_DAA, adjust_packed, NULL, 0}, {ZYDIS_MNEMONIC_DAS, adjust_packed, NULL, 1},
    {ZYDIS_MNEMONIC_AAA, adjust_digit, NULL, 0},  {ZYDIS_MNEMONIC_AAS, adjust_digit, NULL, 1},
    {ZYDIS_MNEMONIC_AAM, aam, NULL, 0},		  {ZYDIS_MNEMONIC_AAD, aad, NULL, 0},
    {ZYDIS_MNEMONIC_SALC, salc, NULL, 0},	  {ZYDIS_MNEMONIC_BOUND, bound, NULL, 0},
    {ZYDIS_MNEMONIC_ARPL, arpl, NULL, 0},	  {0, NULL, NULL, 0},
};
