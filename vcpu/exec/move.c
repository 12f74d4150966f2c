/* Moves: MOV and its kin, stack, conditional moves and sets, exchanges, sign extensions. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/raise.h"
#include "vcpu/svm/svm.h"

#define MOVE_SIZE(size)                                                      \
	static enum step mov_rr_##size(struct cpu *cpu, const struct op *op) \
	{                                                                    \
		reg_set(cpu, op->dst, size, reg_get(cpu, op->src, size));    \
		return STEP_NEXT;                                            \
	}                                                                    \
	static enum step mov_ri_##size(struct cpu *cpu, const struct op *op) \
	{                                                                    \
		reg_set(cpu, op->dst, size, op->imm);                        \
		return STEP_NEXT;                                            \
	}                                                                    \
	static enum step mov_rm_##size(struct cpu *cpu, const struct op *op) \
	{                                                                    \
		uint64_t value;                                              \
		enum step step = op_load(cpu, op, size, &value);             \
                                                                             \
		if (likely(!step))                                           \
			reg_set(cpu, op->dst, size, value);                  \
		return step;                                                 \
	}                                                                    \
	static enum step mov_mr_##size(struct cpu *cpu, const struct op *op) \
	{                                                                    \
		return op_store(cpu, op, size, reg_get(cpu, op->src, size)); \
	}                                                                    \
	static enum step mov_mi_##size(struct cpu *cpu, const struct op *op) \
	{                                                                    \
		return op_store(cpu, op, size, op->imm);                     \
	}
MOVE_SIZE(1)
MOVE_SIZE(2)
MOVE_SIZE(4)
MOVE_SIZE(8)
#define MOVE_ROW(form)                                                         \
	{                                                                      \
		mov_##form##_1, mov_##form##_2, mov_##form##_4, mov_##form##_8 \
	}

/* Until the next instruction is done SS and rSP may not belong together: no interrupt, no #DB. */
static void stack_segment_loaded(struct cpu *cpu)
{
	cpu->s.interrupt_shadow = 1;
	cpu->debug.blocked = 1;
}

static enum step mov_to_segment(struct cpu *cpu, const struct op *op)
{
	uint64_t selector;
	enum step step;

	if (op->dst == CPU_CS)
		return cpu_raise(cpu, VECTOR_UD);
	step = op_read(cpu, op, 1, 2, &selector);
	if (!step)
		step = segment_load(cpu, op->dst, selector);
	if (step)
		return step;
	if (op->dst == CPU_SS)
		stack_segment_loaded(cpu);
	return STEP_END;
}

static enum step mov_from_segment(struct cpu *cpu, const struct op *op)
{
	uint16_t selector = cpu->s.seg[op->src].selector;

	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, 2, selector);
	reg_set(cpu, op->dst, op->size, selector);
	return STEP_NEXT;
}

static op_fn bind_mov(struct op *op, const struct decoded *decoded)
{
	static const op_fn forms[5][4] = {MOVE_ROW(rr), MOVE_ROW(ri), MOVE_ROW(rm), MOVE_ROW(mr),
					  MOVE_ROW(mi)};
	const ZydisDecodedOperand *operand = decoded->operand;
	unsigned int form;

	for (unsigned int i = 0; i < 2; i++) {
		ZydisRegisterClass class;

		if (operand[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		class = ZydisRegisterGetClass(operand[i].reg.value);
		if (class == ZYDIS_REGCLASS_SEGMENT)
			return i ? mov_from_segment : mov_to_segment;
		if (class == ZYDIS_REGCLASS_CONTROL || class == ZYDIS_REGCLASS_DEBUG)
			return NULL; /* system.c */
		if (class == ZYDIS_REGCLASS_TEST)
			return exec_undefined;
	}
	if (op->kind[0] == OPERAND_MEM)
		form = op->kind[1] == OPERAND_IMM ? 4 : 3;
	else if (op->kind[1] == OPERAND_MEM)
		form = 2;
	else
		form = op->kind[1] == OPERAND_IMM ? 1 : 0;
	return forms[form][size_index(op->size)];
}

/* MOVZX, MOVSX, MOVSXD: aux is the source size, with bit 8 for a signed one. */
#define EXTEND_SIGNED 0x100u

static enum step move_extend(struct cpu *cpu, const struct op *op)
{
	unsigned int source = op->aux & 0xff;
	uint64_t value;
	enum step step = op_read(cpu, op, 1, source, &value);

	if (unlikely(step))
		return step;
	if (op->aux & EXTEND_SIGNED)
		value = sign_extend(value, source);
	reg_set(cpu, op->dst, op->size, value);
	return STEP_NEXT;
}

static op_fn bind_extend(struct op *op, const struct decoded *decoded)
{
	op->aux |= decoded->operand[1].size / 8;
	return move_extend;
}

static enum step lea(struct cpu *cpu, const struct op *op)
{
	reg_set(cpu, op->dst, op->size, op_effective(cpu, op));
	return STEP_NEXT;
}

static uint64_t stack_linear(const struct cpu *cpu, uint64_t offset)
{
	return cpu->code_bytes == 8 ? offset : (uint32_t)(cpu->s.seg[CPU_SS].base + offset);
}

static uint64_t stack_offset(const struct cpu *cpu, int64_t bytes)
{
	uint64_t offset = cpu->s.gpr[CPU_RSP] + (uint64_t)bytes;

	if (cpu->stack_bytes == 8)
		return offset;
	return cpu->stack_bytes == 4 ? (uint32_t)offset : (uint16_t)offset;
}

void stack_move(struct cpu *cpu, int64_t bytes)
{
	reg_set(cpu, GPR_OFFSET(CPU_RSP), cpu->stack_bytes, stack_offset(cpu, bytes));
}

enum step stack_poke(struct cpu *cpu, int offset_bytes, unsigned int size_bytes, uint64_t value)
{
	uint64_t offset = stack_offset(cpu, offset_bytes), linear = stack_linear(cpu, offset);
	enum step step = STEP_NEXT;

	if (cpu->code_bytes != 8)
		step = segment_check(cpu, CPU_SS, offset, size_bytes, &linear);
	return step ? step : mem_store(cpu, linear, size_bytes, value);
}

enum step stack_peek(struct cpu *cpu, unsigned int offset_bytes, unsigned int size_bytes,
		     uint64_t *value)
{
	uint64_t offset = stack_offset(cpu, offset_bytes), linear = stack_linear(cpu, offset);
	enum step step = STEP_NEXT;

	if (cpu->code_bytes != 8)
		step = segment_check(cpu, CPU_SS, offset, size_bytes, &linear);
	return step ? step : mem_load(cpu, linear, size_bytes, value);
}

enum step stack_push(struct cpu *cpu, unsigned int size_bytes, uint64_t value)
{
	enum step step = stack_poke(cpu, -(int)size_bytes, size_bytes, value);

	if (likely(!step))
		stack_move(cpu, -(int)size_bytes);
	return step;
}

enum step stack_pop(struct cpu *cpu, unsigned int size_bytes, uint64_t *value)
{
	enum step step = stack_peek(cpu, 0, size_bytes, value);

	if (likely(!step))
		stack_move(cpu, size_bytes);
	return step;
}

static enum step push(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = op_read(cpu, op, 0, op->size, &value);

	return step ? step : stack_push(cpu, op->size, value);
}

static enum step push_reg64(struct cpu *cpu, const struct op *op)
{
	uint64_t rsp = cpu->s.gpr[CPU_RSP] - 8;
	enum step step = mem_store(cpu, rsp, 8, REG_AT(cpu, op->dst, uint64_t));

	if (likely(!step))
		cpu->s.gpr[CPU_RSP] = rsp;
	return step;
}

static enum step pop_reg64(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = mem_load(cpu, cpu->s.gpr[CPU_RSP], 8, &value);

	if (unlikely(step))
		return step;
	cpu->s.gpr[CPU_RSP] += 8;
	REG_AT(cpu, op->dst, uint64_t) = value;
	return STEP_NEXT;
}

static enum step push_segment(struct cpu *cpu, const struct op *op)
{
	return stack_push(cpu, op->size, cpu->s.seg[op->dst].selector);
}

static int is_segment(const struct decoded *decoded)
{
	return decoded->operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(decoded->operand[0].reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

static op_fn bind_push(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	if (is_segment(decoded))
		return push_segment;
	if (op->kind[0] == OPERAND_REG && decoded->code_bytes == 8 && op->size == 8)
		return push_reg64;
	return push;
}

/* POP to memory: the address is computed with RSP already moved. */
static enum step pop_memory(struct cpu *cpu, const struct op *op)
{
	uint64_t value, old = cpu->s.gpr[CPU_RSP];
	enum step step = stack_peek(cpu, 0, op->size, &value);

	if (step)
		return step;
	stack_move(cpu, op->size);
	step = op_store(cpu, op, op->size, value);
	if (step)
		cpu->s.gpr[CPU_RSP] = old;
	return step;
}

static enum step pop_register(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = stack_pop(cpu, op->size, &value);

	if (!step)
		reg_set(cpu, op->dst, op->size, value);
	return step;
}

static enum step pop_segment(struct cpu *cpu, const struct op *op)
{
	unsigned int stack_bytes = cpu->stack_bytes;
	uint64_t selector, rsp;
	enum step step = stack_peek(cpu, 0, op->size, &selector);

	if (step)
		return step;
	rsp = stack_offset(cpu, op->size);
	step = segment_load(cpu, op->dst, selector);
	if (step)
		return step;
	reg_set(cpu, GPR_OFFSET(CPU_RSP), stack_bytes, rsp);
	if (op->dst == CPU_SS)
		stack_segment_loaded(cpu);
	return STEP_END;
}

static op_fn bind_pop(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	if (is_segment(decoded))
		return pop_segment;
	if (op->kind[0] == OPERAND_MEM)
		return pop_memory;
	return decoded->code_bytes == 8 && op->size == 8 ? pop_reg64 : pop_register;
}

static enum step pusha(struct cpu *cpu, const struct op *op)
{
	unsigned int size = op->aux;

	/* AX is pushed first, so it has the highest address. */
	for (int reg = CPU_RAX; reg <= CPU_RDI; reg++) {
		int offset = -(int)size * (reg + 1);
		enum step step = stack_poke(cpu, offset, size, cpu->s.gpr[reg]);

		if (step)
			return step;
	}
	stack_move(cpu, -(int)size * 8);
	return STEP_NEXT;
}

static enum step popa(struct cpu *cpu, const struct op *op)
{
	unsigned int size = op->aux;
	uint64_t value[8];

	for (unsigned int i = 0; i < 8; i++) {
		enum step step = stack_peek(cpu, i * size, size, &value[i]);

		if (step)
			return step;
	}
	stack_move(cpu, size * 8);
	for (unsigned int i = 0; i < 8; i++) {
		if (7 - i != CPU_RSP)
			reg_set(cpu, GPR_OFFSET(7 - i), size, value[i]);
	}
	return STEP_NEXT;
}

static enum step enter(struct cpu *cpu, const struct op *op)
{
	unsigned int size = op->size, level = op->imm & 31;
	uint64_t frame = stack_offset(cpu, -(int)size);
	uint64_t frame_space = op->aux;
	enum step step = stack_poke(cpu, -(int)size, size, cpu->s.gpr[CPU_RBP]);

	/* On a stack of 16 bits EBP takes the upper half of ESP, too. */
	if (cpu->stack_bytes == 2)
		frame |= cpu->s.gpr[CPU_RSP] & UINT64_C(0xffff0000);
	for (unsigned int i = 1; !step && i < level; i++) {
		uint64_t outer, linear, at = cpu->s.gpr[CPU_RBP] - (uint64_t)i * size;

		if (cpu->stack_bytes != 8)
			at = cpu->stack_bytes == 4 ? (uint32_t)at : (uint16_t)at;
		step = segment_check(cpu, CPU_SS, at, size, &linear);
		if (!step)
			step = mem_load(cpu, linear, size, &outer);
		if (!step)
			step = stack_poke(cpu, -(int)(size * (i + 1)), size, outer);
	}
	if (!step && level)
		step = stack_poke(cpu, -(int)(size * (level + 1)), size, frame);
	if (step)
		return step;
	reg_set(cpu, GPR_OFFSET(CPU_RBP), size, frame);
	stack_move(cpu, -(int64_t)(size * (level + 1) + frame_space));
	return STEP_NEXT;
}

static op_fn bind_enter(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	op->imm = decoded->operand[1].imm.value.u;
	op->aux = decoded->operand[0].imm.value.u;
	return enter;
}

static enum step leave(struct cpu *cpu, const struct op *op)
{
	uint64_t frame = cpu->s.gpr[CPU_RBP], value;
	uint64_t old = cpu->s.gpr[CPU_RSP];
	enum step step;

	reg_set(cpu, GPR_OFFSET(CPU_RSP), cpu->stack_bytes, frame);
	step = stack_pop(cpu, op->size, &value);
	if (step) {
		cpu->s.gpr[CPU_RSP] = old;
		return step;
	}
	reg_set(cpu, GPR_OFFSET(CPU_RBP), op->size, value);
	return STEP_NEXT;
}

static op_fn bind_leave(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->insn.operand_width / 8;
	return leave;
}

/* CMOVcc reads its source, and clears the upper half of a 32-bit register, in any case. */
static enum step cmov(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = op_read(cpu, op, 1, op->size, &value);

	if (unlikely(step))
		return step;
	if (!flag_condition(cpu, op->aux))
		value = reg_get(cpu, op->dst, op->size);
	reg_set(cpu, op->dst, op->size, value);
	return STEP_NEXT;
}

static enum step setcc(struct cpu *cpu, const struct op *op)
{
	return op_write(cpu, op, 1, flag_condition(cpu, op->aux));
}

static enum step xchg_registers(struct cpu *cpu, const struct op *op)
{
	uint64_t a = reg_get(cpu, op->dst, op->size), b = reg_get(cpu, op->src, op->size);

	reg_set(cpu, op->dst, op->size, b);
	reg_set(cpu, op->src, op->size, a);
	return STEP_NEXT;
}

static unsigned int xchg_register_of(const struct op *op)
{
	return op->kind[0] == OPERAND_MEM ? op->src : op->dst;
}

static uint64_t xchg_value(const struct cpu *cpu, const struct op *op, uint64_t old)
{
	return reg_get(cpu, xchg_register_of(op), op->size);
}

static enum step xchg_memory(struct cpu *cpu, const struct op *op)
{
	uint64_t old = 0;
	enum step step = mem_update(cpu, op, xchg_value, &old);

	if (!step)
		reg_set(cpu, xchg_register_of(op), op->size, old);
	return step;
}

static op_fn bind_xchg(struct op *op, const struct decoded *decoded)
{
	return op->mem_size ? xchg_memory : xchg_registers;
}

/* CBW, CWDE, CDQE: aux is the destination size. */
static enum step extend_rax(struct cpu *cpu, const struct op *op)
{
	unsigned int half = op->aux / 2;

	reg_set(cpu, GPR_OFFSET(CPU_RAX), op->aux,
		sign_extend(reg_get(cpu, GPR_OFFSET(CPU_RAX), half), half));
	return STEP_NEXT;
}

/* CWD, CDQ, CQO. */
static enum step extend_rdx(struct cpu *cpu, const struct op *op)
{
	unsigned int sign = sign_bit(reg_get(cpu, GPR_OFFSET(CPU_RAX), op->aux), op->aux);

	reg_set(cpu, GPR_OFFSET(CPU_RDX), op->aux, sign ? ~UINT64_C(0) : 0);
	return STEP_NEXT;
}

static enum step xlat(struct cpu *cpu, const struct op *op)
{
	uint64_t at = cpu->s.gpr[CPU_RBX] + (uint8_t)cpu->s.gpr[CPU_RAX], linear, value;
	enum step step;

	if (op->address_bytes != 8)
		at &= size_mask(op->address_bytes);
	step = segment_check(cpu, op->seg, at, 1, &linear);
	if (!step)
		step = mem_load(cpu, linear, 1, &value);
	if (!step)
		reg_set(cpu, GPR_OFFSET(CPU_RAX), 1, value);
	return step;
}

static op_fn bind_xlat(struct op *op, const struct decoded *decoded)
{
	for (unsigned int i = 0; i < decoded->insn.operand_count; i++) {
		const ZydisDecodedOperand *operand = &decoded->operand[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
			op->seg = operand->mem.segment - ZYDIS_REGISTER_ES;
	}
	return xlat;
}

static enum step lahf(struct cpu *cpu, const struct op *op)
{
	reg_set(cpu, GPR_OFFSET(CPU_RAX) + 1, 1, (flags_arithmetic(cpu) & 0xff) | FLAG_FIXED);
	return STEP_NEXT;
}

static enum step sahf(struct cpu *cpu, const struct op *op)
{
	uint64_t low = FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF;

	flags_set_arithmetic(cpu, (flags_arithmetic(cpu) & FLAG_OF) |
				      (reg_get(cpu, GPR_OFFSET(CPU_RAX) + 1, 1) & low));
	return STEP_NEXT;
}

static enum step carry_change(struct cpu *cpu, const struct op *op)
{
	unsigned int cf = op->aux == 2 ? !flag_cf(cpu) : op->aux;

	flags_set_carry(cpu, cf, flag_of(cpu));
	return STEP_NEXT;
}

static enum step direction_change(struct cpu *cpu, const struct op *op)
{
	cpu->s.rflags = (cpu->s.rflags & ~FLAG_DF) | op->aux;
	return STEP_NEXT;
}

static enum step pause_hint(struct cpu *cpu, const struct op *op)
{
	return svm_intercept(cpu, INTERCEPT_PAUSE);
}

static enum step nop(struct cpu *cpu, const struct op *op)
{
	return STEP_NEXT;
}

/* MOVNTI is an ordinary store here. */
static enum step store_register(struct cpu *cpu, const struct op *op)
{
	return op_store(cpu, op, op->size, reg_get(cpu, op->src, op->size));
}

/* LDS, LES, LFS, LGS, LSS: offset, then selector. */
static enum step load_far(struct cpu *cpu, const struct op *op)
{
	uint64_t offset, selector;
	enum step step = op_load_part(cpu, op, 0, op->size, &offset);

	if (!step)
		step = op_load_part(cpu, op, op->size, 2, &selector);
	if (!step)
		step = segment_load(cpu, op->aux, selector);
	if (step)
		return step;
	reg_set(cpu, op->dst, op->size, offset);
	return STEP_END;
}

#define CMOV_ROW(name, code) {ZYDIS_MNEMONIC_CMOV##name, cmov, NULL, code},
#define SET_ROW(name, code) {ZYDIS_MNEMONIC_SET##name, setcc, NULL, code},

const struct insn_desc exec_move_table[] = {
    {ZYDIS_MNEMONIC_MOV, NULL, bind_mov, 0},
    {ZYDIS_MNEMONIC_MOVZX, NULL, bind_extend, 0},
    {ZYDIS_MNEMONIC_MOVSX, NULL, bind_extend, EXTEND_SIGNED},
    {ZYDIS_MNEMONIC_MOVSXD, NULL, bind_extend, EXTEND_SIGNED},
    {ZYDIS_MNEMONIC_MOVNTI, store_register, NULL, 0},
    {ZYDIS_MNEMONIC_MOVDIRI, store_register, NULL, 0},
    {ZYDIS_MNEMONIC_LEA, lea, NULL, 0},
    {ZYDIS_MNEMONIC_PUSH, NULL, bind_push, 0},
    {ZYDIS_MNEMONIC_POP, NULL, bind_pop, 0},
    {ZYDIS_MNEMONIC_PUSHA, pusha, NULL, 2},
    {ZYDIS_MNEMONIC_PUSHAD, pusha, NULL, 4},
    {ZYDIS_MNEMONIC_POPA, popa, NULL, 2},
    {ZYDIS_MNEMONIC_POPAD, popa, NULL, 4},
    {ZYDIS_MNEMONIC_ENTER, NULL, bind_enter, 0},
    {ZYDIS_MNEMONIC_LEAVE, NULL, bind_leave, 0},
    CONDITIONS(CMOV_ROW) CONDITIONS(SET_ROW){ZYDIS_MNEMONIC_XCHG, NULL, bind_xchg, 0},
    {ZYDIS_MNEMONIC_CBW, extend_rax, NULL, 2},
    {ZYDIS_MNEMONIC_CWDE, extend_rax, NULL, 4},
    {ZYDIS_MNEMONIC_CDQE, extend_rax, NULL, 8},
    {ZYDIS_MNEMONIC_CWD, extend_rdx, NULL, 2},
    {ZYDIS_MNEMONIC_CDQ, extend_rdx, NULL, 4},
    {ZYDIS_MNEMONIC_CQO, extend_rdx, NULL, 8},
    {ZYDIS_MNEMONIC_XLAT, NULL, bind_xlat, 0},
    {ZYDIS_MNEMONIC_LAHF, lahf, NULL, 0},
    {ZYDIS_MNEMONIC_SAHF, sahf, NULL, 0},
    {ZYDIS_MNEMONIC_CLC, carry_change, NULL, 0},
    {ZYDIS_MNEMONIC_STC, carry_change, NULL, 1},
    {ZYDIS_MNEMONIC_CMC, carry_change, NULL, 2},
    {ZYDIS_MNEMONIC_CLD, direction_change, NULL, 0},
    {ZYDIS_MNEMONIC_STD, direction_change, NULL, FLAG_DF},
    {ZYDIS_MNEMONIC_LDS, load_far, NULL, CPU_DS},
    {ZYDIS_MNEMONIC_LES, load_far, NULL, CPU_ES},
    {ZYDIS_MNEMONIC_LFS, load_far, NULL, CPU_FS},
    {ZYDIS_MNEMONIC_LGS, load_far, NULL, CPU_GS},
    {ZYDIS_MNEMONIC_LSS, load_far, NULL, CPU_SS},
    {ZYDIS_MNEMONIC_NOP, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PAUSE, pause_hint, NULL, 0},
    {ZYDIS_MNEMONIC_ENDBR32, nop, NULL, 0},
    {ZYDIS_MNEMONIC_ENDBR64, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCH, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHNTA, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHT0, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHT1, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHT2, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHW, nop, NULL, 0},
    {ZYDIS_MNEMONIC_PREFETCHWT1, nop, NULL, 0},
    {0, NULL, NULL, 0},
};
