/* Shifts, rotates, multiplication and division. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

enum shift_kind {
	SHIFT_SHL,
	SHIFT_SHR,
	SHIFT_SAR,
	SHIFT_ROL,
	SHIFT_ROR,
	SHIFT_RCL,
	SHIFT_RCR,
	SHIFT_SHLD,
	SHIFT_SHRD,
};

/* A shift before it happens, and what it gives. */
struct shift {
	uint64_t value, fill;
	unsigned int size, count, cf;
	/* Results. */
	uint64_t result;
	unsigned int new_cf;
};

/* CF:value as one number of bits + 1 bits, turned left. */
static void rotate_through_carry(struct shift *shift, unsigned int left_count)
{
	unsigned int bits = shift->size * 8;
	unsigned __int128 wide = (unsigned __int128)shift->cf << bits | shift->value;

	wide = wide << left_count | wide >> (bits + 1 - left_count);
	shift->result = (uint64_t)wide & size_mask(shift->size);
	shift->new_cf = wide >> bits & 1;
}

static void rotate(struct shift *shift, enum shift_kind kind)
{
	unsigned int bits = shift->size * 8;
	unsigned int count = shift->count;

	if (kind == SHIFT_RCL || kind == SHIFT_RCR) {
		count %= bits + 1;
		shift->result = shift->value;
		shift->new_cf = shift->cf;
		if (count)
			rotate_through_carry(shift, kind == SHIFT_RCL ? count : bits + 1 - count);
		return;
	}
	count %= bits;
	if (kind == SHIFT_ROR)
		count = (bits - count) % bits;
	shift->result = shift->value;
	if (count)
		shift->result = (shift->value << count | shift->value >> (bits - count)) &
				size_mask(shift->size);
	shift->new_cf =
	    kind == SHIFT_ROL ? shift->result & 1 : sign_bit(shift->result, shift->size);
}

static void shift_plain(struct shift *shift, enum shift_kind kind)
{
	unsigned int bits = shift->size * 8, count = shift->count;
	unsigned __int128 wide = shift->value;

	switch (kind) {
	case SHIFT_SHL:
		wide <<= count;
		shift->result = (uint64_t)wide & size_mask(shift->size);
		shift->new_cf = wide >> bits & 1;
		break;
	case SHIFT_SHR:
		shift->result = count < 64 ? shift->value >> count : 0;
		shift->new_cf = shift->value >> (count - 1) & 1;
		break;
	default: {
		int64_t value = sign_extend(shift->value, shift->size);

		shift->result = (uint64_t)(value >> count) & size_mask(shift->size);
		shift->new_cf = value >> (count - 1) & 1;
		break;
	}
	}
}

/* A count above 16 in a 16-bit double shift is undefined: the fill comes round again. */
static void shift_double(struct shift *shift, enum shift_kind kind)
{
	unsigned int bits = shift->size * 8, count = shift->count;
	uint64_t value = shift->value, fill = shift->fill;

	if (bits == 16 && count > 16) {
		count -= 16;
		uint64_t old = value;
		value = fill;
		fill = old;
	}
	if (kind == SHIFT_SHLD) {
		shift->result = value << count | fill >> (bits - count);
		shift->new_cf = value >> (bits - count) & 1;
	} else {
		shift->result = value >> count | fill << (bits - count);
		shift->new_cf = value >> (count - 1) & 1;
	}
	shift->result &= size_mask(shift->size);
}

static void shift_compute(struct shift *shift, enum shift_kind kind)
{
	if (kind >= SHIFT_SHLD)
		shift_double(shift, kind);
	else if (kind >= SHIFT_ROL)
		rotate(shift, kind);
	else
		shift_plain(shift, kind);
}

/* Defined for a count of one; the same formula serves the others, as processors do. */
static unsigned int shift_overflow(const struct shift *shift, enum shift_kind kind)
{
	unsigned int top = sign_bit(shift->result, shift->size);
	unsigned int next = shift->result >> (shift->size * 8 - 2) & 1;

	switch (kind) {
	case SHIFT_SHL:
	case SHIFT_ROL:
	case SHIFT_RCL:
		return top ^ shift->new_cf;
	case SHIFT_SAR:
		return 0;
	case SHIFT_SHLD:
		return top ^ sign_bit(shift->value, shift->size);
	default:
		return top ^ next;
	}
}

static void shift_flags(struct cpu *cpu, const struct shift *shift, enum shift_kind kind)
{
	unsigned int of = shift_overflow(shift, kind);

	if (kind >= SHIFT_ROL && kind <= SHIFT_RCR)
		flags_set_carry(cpu, shift->new_cf, of);
	else
		flags_set_result(cpu, shift->result, shift->size, carry_bits(shift->new_cf, of));
}

static enum step shift_any(struct cpu *cpu, const struct op *op)
{
	enum shift_kind kind = op->aux;
	unsigned int counted = kind >= SHIFT_SHLD ? 2 : 1;
	struct shift shift = {.size = op->size, .cf = flag_cf(cpu)};
	uint64_t linear = 0;
	enum step step = STEP_NEXT;

	shift.count = op->kind[counted] == OPERAND_IMM ? op->imm : cpu->s.gpr[CPU_RCX];
	shift.count &= op->size == 8 ? 63 : 31;
	if (kind >= SHIFT_SHLD)
		shift.fill = reg_get(cpu, op->src, op->size);
	if (op->kind[0] == OPERAND_MEM) {
		step = op_linear(cpu, op, &linear);
		if (!step)
			step = mem_load_rmw(cpu, linear, op->size, &shift.value);
		if (step)
			return step;
	} else {
		shift.value = reg_get(cpu, op->dst, op->size);
	}
	shift.result = shift.value;
	if (shift.count)
		shift_compute(&shift, kind);
	if (op->kind[0] == OPERAND_MEM)
		step = mem_store(cpu, linear, op->size, shift.result);
	else
		reg_set(cpu, op->dst, op->size, shift.result);
	if (!step && shift.count)
		shift_flags(cpu, &shift, kind);
	return step;
}

/* The commonest: a register by a constant, 4 or 8 bytes, count not 0. */
#define SHIFT_REGISTER(name, type, signed_type, size)                                             \
	static enum step shl_##name(struct cpu *cpu, const struct op *op)                         \
	{                                                                                         \
		type value = reg_get(cpu, op->dst, size);                                         \
		type result = value << op->aux;                                                   \
		unsigned int cf = value >> (size * 8 - op->aux) & 1;                              \
                                                                                                  \
		reg_set(cpu, op->dst, size, result);                                              \
		flags_set_result(cpu, result, size, carry_bits(cf, sign_bit(result, size) ^ cf)); \
		return STEP_NEXT;                                                                 \
	}                                                                                         \
	static enum step shr_##name(struct cpu *cpu, const struct op *op)                         \
	{                                                                                         \
		type value = reg_get(cpu, op->dst, size);                                         \
		type result = value >> op->aux;                                                   \
		unsigned int cf = value >> (op->aux - 1) & 1;                                     \
		unsigned int of = sign_bit(result, size) ^ (result >> (size * 8 - 2) & 1);        \
                                                                                                  \
		reg_set(cpu, op->dst, size, result);                                              \
		flags_set_result(cpu, result, size, carry_bits(cf, of));                          \
		return STEP_NEXT;                                                                 \
	}                                                                                         \
	static enum step sar_##name(struct cpu *cpu, const struct op *op)                         \
	{                                                                                         \
		signed_type value = reg_get(cpu, op->dst, size);                                  \
		signed_type result = value >> op->aux;                                            \
                                                                                                  \
		reg_set(cpu, op->dst, size, result);                                              \
		flags_set_result(cpu, result, size, carry_bits(value >> (op->aux - 1) & 1, 0));   \
		return STEP_NEXT;                                                                 \
	}
SHIFT_REGISTER(32, uint32_t, int32_t, 4)
SHIFT_REGISTER(64, uint64_t, int64_t, 8)

static op_fn bind_shift(struct op *op, const struct decoded *decoded)
{
	static const op_fn fast[3][2] = {{shl_32, shl_64}, {shr_32, shr_64}, {sar_32, sar_64}};
	enum shift_kind kind = op->aux;
	unsigned int count = op->imm & (op->size == 8 ? 63 : 31);

	if (kind > SHIFT_SAR || op->kind[0] != OPERAND_REG || op->kind[1] != OPERAND_IMM ||
	    op->size < 4 || !count)
		return shift_any;
	op->aux = count;
	return fast[kind][op->size == 8];
}

static void flags_multiply(struct cpu *cpu, uint64_t low, unsigned int size, unsigned int overflow)
{
	flags_set_result(cpu, low, size, carry_bits(overflow, overflow));
}

/* rDX:rAX, or AX for bytes. */
static void set_wide(struct cpu *cpu, unsigned int size, uint64_t low, uint64_t high)
{
	if (size == 1) {
		reg_set(cpu, GPR_OFFSET(CPU_RAX), 2, (low & 0xff) | high << 8);
		return;
	}
	reg_set(cpu, GPR_OFFSET(CPU_RAX), size, low);
	reg_set(cpu, GPR_OFFSET(CPU_RDX), size, high);
}

static enum step mul_wide(struct cpu *cpu, const struct op *op)
{
	unsigned int bits = op->size * 8;
	unsigned __int128 product;
	uint64_t a = reg_get(cpu, GPR_OFFSET(CPU_RAX), op->size), b;
	enum step step = op_read(cpu, op, 0, op->size, &b);

	if (step)
		return step;
	product = (unsigned __int128)a * b;
	set_wide(cpu, op->size, product, product >> bits);
	flags_multiply(cpu, product, op->size, (product >> bits) != 0);
	return STEP_NEXT;
}

static enum step imul_wide(struct cpu *cpu, const struct op *op)
{
	unsigned int bits = op->size * 8;
	int64_t a = sign_extend(reg_get(cpu, GPR_OFFSET(CPU_RAX), op->size), op->size);
	__int128 product;
	uint64_t b;
	enum step step = op_read(cpu, op, 0, op->size, &b);

	if (step)
		return step;
	product = (__int128)a * (int64_t)sign_extend(b, op->size);
	set_wide(cpu, op->size, product, product >> bits);
	flags_multiply(cpu, product, op->size, product != (int64_t)sign_extend(product, op->size));
	return STEP_NEXT;
}

/* Two or three operands: the low half only. */
static enum step imul_narrow(struct cpu *cpu, const struct op *op)
{
	unsigned int first = op->kind[2] == OPERAND_NONE ? 0 : 1;
	uint64_t a, b = op->imm;
	__int128 product;
	enum step step = op_read(cpu, op, first, op->size, &a);

	if (!step && !first)
		step = op_read(cpu, op, 1, op->size, &b);
	if (step)
		return step;
	product = (__int128)(int64_t)sign_extend(a, op->size) * (int64_t)sign_extend(b, op->size);
	reg_set(cpu, op->dst, op->size, product);
	flags_multiply(cpu, product, op->size, product != (int64_t)sign_extend(product, op->size));
	return STEP_NEXT;
}

static op_fn bind_imul(struct op *op, const struct decoded *decoded)
{
	return op->kind[1] == OPERAND_NONE ? imul_wide : imul_narrow;
}

static unsigned __int128 get_wide(const struct cpu *cpu, unsigned int size)
{
	if (size == 1)
		return reg_get(cpu, GPR_OFFSET(CPU_RAX), 2);
	return (unsigned __int128)reg_get(cpu, GPR_OFFSET(CPU_RDX), size) << (size * 8) |
	       reg_get(cpu, GPR_OFFSET(CPU_RAX), size);
}

static enum step div_unsigned(struct cpu *cpu, const struct op *op)
{
	unsigned __int128 dividend = get_wide(cpu, op->size), quotient;
	uint64_t divisor;
	enum step step = op_read(cpu, op, 0, op->size, &divisor);

	if (step)
		return step;
	if (!divisor)
		return cpu_raise(cpu, VECTOR_DE);
	if (!(dividend >> 64)) {
		uint64_t low = dividend;

		if (low / divisor > size_mask(op->size))
			return cpu_raise(cpu, VECTOR_DE);
		set_wide(cpu, op->size, low / divisor, low % divisor);
		return STEP_NEXT;
	}
	quotient = dividend / divisor;
	if (quotient > size_mask(op->size))
		return cpu_raise(cpu, VECTOR_DE);
	set_wide(cpu, op->size, quotient, dividend % divisor);
	return STEP_NEXT;
}

static enum step div_signed(struct cpu *cpu, const struct op *op)
{
	unsigned int shift = 128 - op->size * 16;
	__int128 dividend = (__int128)(get_wide(cpu, op->size) << shift) >> shift;
	__int128 quotient;
	uint64_t raw;
	int64_t divisor;
	enum step step = op_read(cpu, op, 0, op->size, &raw);

	if (step)
		return step;
	divisor = sign_extend(raw, op->size);
	/* The one quotient that does not fit 128 bits does not fit 64 either. */
	if (!divisor || (divisor == -1 && dividend == (__int128)((unsigned __int128)1 << 127)))
		return cpu_raise(cpu, VECTOR_DE);
	quotient = dividend / divisor;
	if (quotient != (int64_t)sign_extend(quotient, op->size))
		return cpu_raise(cpu, VECTOR_DE);
	set_wide(cpu, op->size, quotient & size_mask(op->size),
		 (uint64_t)(dividend % divisor) & size_mask(op->size));
	return STEP_NEXT;
}

const struct insn_desc exec_shift_table[] = {
    {ZYDIS_MNEMONIC_SHL, NULL, bind_shift, SHIFT_SHL},
    {ZYDIS_MNEMONIC_SHR, NULL, bind_shift, SHIFT_SHR},
    {ZYDIS_MNEMONIC_SAR, NULL, bind_shift, SHIFT_SAR},
    {ZYDIS_MNEMONIC_ROL, shift_any, NULL, SHIFT_ROL},
    {ZYDIS_MNEMONIC_ROR, shift_any, NULL, SHIFT_ROR},
    {ZYDIS_MNEMONIC_RCL, shift_any, NULL, SHIFT_RCL},
    {ZYDIS_MNEMONIC_RCR, shift_any, NULL, SHIFT_RCR},
    {ZYDIS_MNEMONIC_SHLD, shift_any, NULL, SHIFT_SHLD},
    {ZYDIS_MNEMONIC_SHRD, shift_any, NULL, SHIFT_SHRD},
    {ZYDIS_MNEMONIC_MUL, mul_wide, NULL, 0},
    {ZYDIS_MNEMONIC_IMUL, NULL, bind_imul, 0},
    {ZYDIS_MNEMONIC_DIV, div_unsigned, NULL, 0},
    {ZYDIS_MNEMONIC_IDIV, div_signed, NULL, 0},
    {0, NULL, NULL, 0},
};
