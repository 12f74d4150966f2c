/* Bit tests, bit scans, byte swaps, and the compare-and-exchange family. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/raise.h"

enum bit_kind { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT };

static uint64_t bit_apply(enum bit_kind kind, uint64_t value, uint64_t mask)
{
	switch (kind) {
	case BIT_SET:
		return value | mask;
	case BIT_RESET:
		return value & ~mask;
	case BIT_COMPLEMENT:
		return value ^ mask;
	default:
		return value;
	}
}

static enum step bit_register(struct cpu *cpu, const struct op *op)
{
	uint64_t index = op->kind[1] == OPERAND_IMM ? op->imm : reg_get(cpu, op->src, op->size);
	uint64_t value = reg_get(cpu, op->dst, op->size);

	index &= op->size * 8 - 1;
	if (op->aux != BIT_TEST)
		reg_set(cpu, op->dst, op->size, bit_apply(op->aux, value, UINT64_C(1) << index));
	flags_set_carry(cpu, value >> index & 1, flag_of(cpu));
	return STEP_NEXT;
}

/* A register index reaches beyond the operand: it is a signed offset in bits. */
static enum step bit_locate(struct cpu *cpu, const struct op *op, uint64_t *linear,
			    unsigned int *bit)
{
	unsigned int bits = op->size * 8;
	uint64_t at = op_effective(cpu, op);
	int64_t index;

	if (op->kind[1] == OPERAND_IMM) {
		*bit = op->imm & (bits - 1);
		return op_linear(cpu, op, linear);
	}
	if (op->flags & OP_STORES) {
		enum step step = segment_check_store(cpu, op->seg);

		if (step)
			return step;
	}
	index = sign_extend(reg_get(cpu, op->src, op->size), op->size);
	*bit = index & (bits - 1);
	at += (uint64_t)(index >> __builtin_ctz(bits)) * op->size;
	if (op->address_bytes != 8)
		at &= size_mask(op->address_bytes);
	return segment_check(cpu, op->seg, at, op->size, linear);
}

static enum step bit_memory(struct cpu *cpu, const struct op *op)
{
	struct mem_cmpxchg_request request = {.size_bytes = op->size};
	uint64_t value, mask;
	unsigned int bit;
	int swapped = 0;
	enum step step = bit_locate(cpu, op, &request.linear, &bit);

	if (step)
		return step;
	mask = UINT64_C(1) << bit;
	if (op->aux == BIT_TEST)
		step = mem_load(cpu, request.linear, op->size, &value);
	else
		step = mem_load_rmw(cpu, request.linear, op->size, &value);
	if (!step && op->aux != BIT_TEST && !(op->flags & OP_LOCK))
		step = mem_store(cpu, request.linear, op->size, bit_apply(op->aux, value, mask));
	if (!step && (op->flags & OP_LOCK)) {
		uint64_t found = value;

		while (!step && !swapped) {
			value = found;
			request.desired = bit_apply(op->aux, value, mask);
			step = mem_cmpxchg(cpu, &request, &found, &swapped);
		}
	}
	if (!step)
		flags_set_carry(cpu, value >> bit & 1, flag_of(cpu));
	return step;
}

static op_fn bind_bit(struct op *op, const struct decoded *decoded)
{
	return op->kind[0] == OPERAND_MEM ? bit_memory : bit_register;
}

/* BSF and BSR leave the destination alone when the source is zero. */
static enum step bit_scan(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = op_read(cpu, op, 1, op->size, &value);

	if (step)
		return step;
	if (value)
		reg_set(cpu, op->dst, op->size,
			op->aux ? 63 - __builtin_clzll(value) : __builtin_ctzll(value));
	flags_set_result(cpu, value, op->size, 0);
	return STEP_NEXT;
}

static enum step bswap(struct cpu *cpu, const struct op *op)
{
	uint64_t value = reg_get(cpu, op->dst, op->size);

	value = op->size == 8	? __builtin_bswap64(value)
		: op->size == 4 ? __builtin_bswap32(value)
				: 0; /* undefined for 16 bits: processors give zero */
	reg_set(cpu, op->dst, op->size, value);
	return STEP_NEXT;
}

static void flags_compare(struct cpu *cpu, uint64_t a, uint64_t b, unsigned int size)
{
	flags_set_result(cpu, a - b, size, carry_word(carries_of_sub(a, b, a - b), size));
}

static enum step cmpxchg_register(struct cpu *cpu, const struct op *op)
{
	uint64_t accumulator = reg_get(cpu, GPR_OFFSET(CPU_RAX), op->size);
	uint64_t value = reg_get(cpu, op->dst, op->size);

	flags_compare(cpu, accumulator, value, op->size);
	if (accumulator == value)
		reg_set(cpu, op->dst, op->size, reg_get(cpu, op->src, op->size));
	else
		reg_set(cpu, GPR_OFFSET(CPU_RAX), op->size, value);
	return STEP_NEXT;
}

/*
 * Stores in any case, as the processor does: what it found when the comparison failed. Locked or
 * not it is done atomically.
 */
static enum step cmpxchg_memory(struct cpu *cpu, const struct op *op)
{
	struct mem_cmpxchg_request request = {.size_bytes = op->size};
	uint64_t accumulator = reg_get(cpu, GPR_OFFSET(CPU_RAX), op->size), found, old = 0;
	int swapped = 0;
	enum step step = op_linear(cpu, op, &request.linear);

	if (!step)
		step = mem_load_rmw(cpu, request.linear, op->size, &found);
	while (!step && !swapped) {
		old = found;
		request.desired = old == accumulator ? reg_get(cpu, op->src, op->size) : old;
		step = mem_cmpxchg(cpu, &request, &found, &swapped);
	}
	if (step)
		return step;
	flags_compare(cpu, accumulator, old, op->size);
	if (old != accumulator)
		reg_set(cpu, GPR_OFFSET(CPU_RAX), op->size, old);
	return STEP_NEXT;
}

static op_fn bind_cmpxchg(struct op *op, const struct decoded *decoded)
{
	return op->kind[0] == OPERAND_MEM ? cmpxchg_memory : cmpxchg_register;
}

static void flags_set_zero(struct cpu *cpu, int zf)
{
	uint64_t flags = flags_arithmetic(cpu);

	flags_set_arithmetic(cpu, zf ? flags | FLAG_ZF : flags & ~FLAG_ZF);
}

static enum step cmpxchg8b(struct cpu *cpu, const struct op *op)
{
	struct mem_cmpxchg_request request = {.size_bytes = 8};
	uint64_t expected = (uint32_t)cpu->s.gpr[CPU_RAX] | cpu->s.gpr[CPU_RDX] << 32;
	uint64_t desired = (uint32_t)cpu->s.gpr[CPU_RBX] | cpu->s.gpr[CPU_RCX] << 32;
	uint64_t found, old = 0;
	int swapped = 0;
	enum step step = op_linear(cpu, op, &request.linear);

	if (!step)
		step = mem_load_rmw(cpu, request.linear, 8, &found);
	while (!step && !swapped) {
		old = found;
		request.desired = old == expected ? desired : old;
		step = mem_cmpxchg(cpu, &request, &found, &swapped);
	}
	if (step)
		return step;
	flags_set_zero(cpu, old == expected);
	if (old != expected) {
		reg_set(cpu, GPR_OFFSET(CPU_RAX), 4, old);
		reg_set(cpu, GPR_OFFSET(CPU_RDX), 4, old >> 32);
	}
	return STEP_NEXT;
}

static enum step cmpxchg16b(struct cpu *cpu, const struct op *op)
{
	uint64_t *gpr = cpu->s.gpr;
	uint64_t old[2] = {gpr[CPU_RAX], gpr[CPU_RDX]};
	uint64_t desired[2] = {gpr[CPU_RBX], gpr[CPU_RCX]}, linear;
	int swapped;
	enum step step = op_linear(cpu, op, &linear);

	if (step)
		return step;
	if (linear & 15)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = mem_cmpxchg16(cpu, linear, old, desired, &swapped);
	if (step)
		return step;
	flags_set_zero(cpu, swapped);
	if (!swapped) {
		gpr[CPU_RAX] = old[0];
		gpr[CPU_RDX] = old[1];
	}
	return STEP_NEXT;
}

static void flags_add(struct cpu *cpu, uint64_t a, uint64_t b, unsigned int size)
{
	flags_set_result(cpu, a + b, size, carry_word(carries_of_add(a, b, a + b), size));
}

static enum step xadd_register(struct cpu *cpu, const struct op *op)
{
	uint64_t a = reg_get(cpu, op->dst, op->size), b = reg_get(cpu, op->src, op->size);

	reg_set(cpu, op->src, op->size, a);
	reg_set(cpu, op->dst, op->size, a + b);
	flags_add(cpu, a, b, op->size);
	return STEP_NEXT;
}

static uint64_t xadd_value(const struct cpu *cpu, const struct op *op, uint64_t old)
{
	return old + reg_get(cpu, op->src, op->size);
}

static enum step xadd_memory(struct cpu *cpu, const struct op *op)
{
	uint64_t addend = reg_get(cpu, op->src, op->size), old = 0;
	enum step step = mem_update(cpu, op, xadd_value, &old);

	if (step)
		return step;
	reg_set(cpu, op->src, op->size, old);
	flags_add(cpu, old, addend, op->size);
	return STEP_NEXT;
}

static op_fn bind_xadd(struct op *op, const struct decoded *decoded)
{
	return op->kind[0] == OPERAND_MEM ? xadd_memory : xadd_register;
}

const struct insn_desc exec_bit_table[] = {
    {ZYDIS_MNEMONIC_BT, NULL, bind_bit, BIT_TEST},
    {ZYDIS_MNEMONIC_BTS, NULL, bind_bit, BIT_SET},
    {ZYDIS_MNEMONIC_BTR, NULL, bind_bit, BIT_RESET},
    {ZYDIS_MNEMONIC_BTC, NULL, bind_bit, BIT_COMPLEMENT},
    {ZYDIS_MNEMONIC_BSF, bit_scan, NULL, 0},
    {ZYDIS_MNEMONIC_BSR, bit_scan, NULL, 1},
    {ZYDIS_MNEMONIC_BSWAP, bswap, NULL, 0},
    {ZYDIS_MNEMONIC_CMPXCHG, NULL, bind_cmpxchg, 0},
    {ZYDIS_MNEMONIC_CMPXCHG8B, cmpxchg8b, NULL, 0},
    {ZYDIS_MNEMONIC_CMPXCHG16B, cmpxchg16b, NULL, 0},
    {ZYDIS_MNEMONIC_XADD, NULL, bind_xadd, 0},
    {0, NULL, NULL, 0},
};
