/* Integer arithmetic and logic: the eight classic operations, TEST, INC, DEC, NEG, NOT. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"

/* What an operation gives: its result and cc_carry. */
struct alu_result {
	uint64_t value;
	uint64_t carry;
};

typedef struct alu_result (*alu_fn)(const struct cpu *cpu, uint64_t a, uint64_t b,
				    unsigned int size);

ALWAYS_INLINE struct alu_result alu_add(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	uint64_t sum = a + b;

	return (struct alu_result){sum, carry_word(carries_of_add(a, b, sum), size)};
}

ALWAYS_INLINE struct alu_result alu_adc(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	uint64_t sum = a + b + flag_cf(cpu);

	return (struct alu_result){sum, carry_word(carries_of_add(a, b, sum), size)};
}

ALWAYS_INLINE struct alu_result alu_sub(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	uint64_t difference = a - b;

	return (struct alu_result){difference, carry_word(carries_of_sub(a, b, difference), size)};
}

ALWAYS_INLINE struct alu_result alu_sbb(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	uint64_t difference = a - b - flag_cf(cpu);

	return (struct alu_result){difference, carry_word(carries_of_sub(a, b, difference), size)};
}

ALWAYS_INLINE struct alu_result alu_and(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	return (struct alu_result){a & b, 0};
}

ALWAYS_INLINE struct alu_result alu_or(const struct cpu *cpu, uint64_t a, uint64_t b,
				       unsigned int size)
{
	return (struct alu_result){a | b, 0};
}

ALWAYS_INLINE struct alu_result alu_xor(const struct cpu *cpu, uint64_t a, uint64_t b,
					unsigned int size)
{
	return (struct alu_result){a ^ b, 0};
}

enum alu_form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORMS };

ALWAYS_INLINE int form_dst_is_memory(enum alu_form form)
{
	return form == FORM_MR || form == FORM_MI;
}

ALWAYS_INLINE enum step alu_source(struct cpu *cpu, const struct op *op, unsigned int size,
				   enum alu_form form, uint64_t *value)
{
	switch (form) {
	case FORM_RM:
		return op_load(cpu, op, size, value);
	case FORM_RI:
	case FORM_MI:
		*value = op->imm;
		return STEP_NEXT;
	default:
		*value = reg_get(cpu, op->src, size);
		return STEP_NEXT;
	}
}

/* dst = dst op src. Everything but @cpu and @op is a constant where this is inlined. */
ALWAYS_INLINE enum step alu_write(struct cpu *cpu, const struct op *op, unsigned int size,
				  enum alu_form form, alu_fn compute)
{
	struct alu_result result;
	uint64_t a, b, linear = 0;
	enum step step = alu_source(cpu, op, size, form, &b);

	if (unlikely(step))
		return step;
	if (form_dst_is_memory(form)) {
		step = op_linear(cpu, op, &linear);
		if (unlikely(step))
			return step;
		step = mem_load_rmw(cpu, linear, size, &a);
		if (unlikely(step))
			return step;
	} else {
		a = reg_get(cpu, op->dst, size);
	}
	result = compute(cpu, a, b, size);
	if (form_dst_is_memory(form)) {
		step = mem_store(cpu, linear, size, result.value);
		if (unlikely(step))
			return step;
	} else {
		reg_set(cpu, op->dst, size, result.value);
	}
	flags_set_result(cpu, result.value, size, result.carry);
	return STEP_NEXT;
}

/* CMP, TEST: flags only. */
ALWAYS_INLINE enum step alu_test(struct cpu *cpu, const struct op *op, unsigned int size,
				 enum alu_form form, alu_fn compute)
{
	struct alu_result result;
	uint64_t a, b;
	enum step step = alu_source(cpu, op, size, form, &b);

	if (unlikely(step))
		return step;
	if (form_dst_is_memory(form)) {
		step = op_load(cpu, op, size, &a);
		if (unlikely(step))
			return step;
	} else {
		a = reg_get(cpu, op->dst, size);
	}
	result = compute(cpu, a, b, size);
	flags_set_result(cpu, result.value, size, result.carry);
	return STEP_NEXT;
}

#define ALU_ONE(name, shape, compute, size, form)                                     \
	static enum step name##_##size##_##form(struct cpu *cpu, const struct op *op) \
	{                                                                             \
		return shape(cpu, op, size, form, compute);                           \
	}
#define ALU_SIZE(name, shape, compute, size)         \
	ALU_ONE(name, shape, compute, size, FORM_RR) \
	ALU_ONE(name, shape, compute, size, FORM_RI) \
	ALU_ONE(name, shape, compute, size, FORM_RM) \
	ALU_ONE(name, shape, compute, size, FORM_MR) \
	ALU_ONE(name, shape, compute, size, FORM_MI)
#define ALU_ROW(name, size)                                                                \
	{                                                                                  \
		name##_##size##_FORM_RR, name##_##size##_FORM_RI, name##_##size##_FORM_RM, \
		    name##_##size##_FORM_MR, name##_##size##_FORM_MI                       \
	}
#define ALU_FAMILY(name, shape, compute)                                                 \
	ALU_SIZE(name, shape, compute, 1)                                                \
	ALU_SIZE(name, shape, compute, 2)                                                \
	ALU_SIZE(name, shape, compute, 4)                                                \
	ALU_SIZE(name, shape, compute, 8)                                                \
	static const op_fn name##_forms[4][FORMS] = {ALU_ROW(name, 1), ALU_ROW(name, 2), \
						     ALU_ROW(name, 4), ALU_ROW(name, 8)};

ALU_FAMILY(add, alu_write, alu_add)
ALU_FAMILY(adc, alu_write, alu_adc)
ALU_FAMILY(sub, alu_write, alu_sub)
ALU_FAMILY(sbb, alu_write, alu_sbb)
ALU_FAMILY(and, alu_write, alu_and)
ALU_FAMILY(or, alu_write, alu_or)
ALU_FAMILY(xor, alu_write, alu_xor)
ALU_FAMILY(cmp, alu_test, alu_sub)
ALU_FAMILY(test, alu_test, alu_and)

enum alu_kind {
	ALU_ADD,
	ALU_ADC,
	ALU_SUB,
	ALU_SBB,
	ALU_AND,
	ALU_OR,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
};

struct alu_family {
	const op_fn (*forms)[FORMS];
	alu_fn compute;
};

static const struct alu_family families[] = {
    [ALU_ADD] = {add_forms, alu_add},	[ALU_ADC] = {adc_forms, alu_adc},
    [ALU_SUB] = {sub_forms, alu_sub},	[ALU_SBB] = {sbb_forms, alu_sbb},
    [ALU_AND] = {and_forms, alu_and},	[ALU_OR] = {or_forms, alu_or},
    [ALU_XOR] = {xor_forms, alu_xor},	[ALU_CMP] = {cmp_forms, alu_sub},
    [ALU_TEST] = {test_forms, alu_and},
};

static uint64_t locked_source(const struct cpu *cpu, const struct op *op)
{
	return op->kind[1] == OPERAND_IMM ? op->imm : reg_get(cpu, op->src, op->size);
}

static uint64_t alu_locked_value(const struct cpu *cpu, const struct op *op, uint64_t old)
{
	return families[op->aux].compute(cpu, old, locked_source(cpu, op), op->size).value;
}

static enum step alu_locked(struct cpu *cpu, const struct op *op)
{
	uint64_t source = locked_source(cpu, op), old = 0;
	struct alu_result result;
	enum step step = mem_update(cpu, op, alu_locked_value, &old);

	if (step)
		return step;
	result = families[op->aux].compute(cpu, old, source, op->size);
	flags_set_result(cpu, result.value, op->size, result.carry);
	return STEP_NEXT;
}

static op_fn bind_alu(struct op *op, const struct decoded *decoded)
{
	enum alu_form form;

	if (op->flags & OP_LOCK)
		return alu_locked;
	if (op->kind[0] == OPERAND_MEM)
		form = op->kind[1] == OPERAND_IMM ? FORM_MI : FORM_MR;
	else if (op->kind[1] == OPERAND_MEM)
		form = FORM_RM;
	else
		form = op->kind[1] == OPERAND_IMM ? FORM_RI : FORM_RR;
	return families[op->aux].forms[size_index(op->size)][form];
}

enum unary { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT };

static uint64_t unary_value(const struct cpu *cpu, const struct op *op, uint64_t old)
{
	switch (op->aux) {
	case UNARY_INC:
		return old + 1;
	case UNARY_DEC:
		return old - 1;
	case UNARY_NEG:
		return -old;
	default:
		return ~old;
	}
}

static void unary_flags(struct cpu *cpu, const struct op *op, uint64_t old)
{
	uint64_t value = unary_value(cpu, op, old);
	unsigned int size = op->size, cf = flag_cf(cpu);

	switch (op->aux) {
	case UNARY_INC:
		flags_set_result(cpu, value, size, carry_word(carries_of_add(old, 1, value), size));
		break;
	case UNARY_DEC:
		flags_set_result(cpu, value, size, carry_word(carries_of_sub(old, 1, value), size));
		break;
	case UNARY_NEG:
		flags_set_result(cpu, value, size, carry_word(carries_of_sub(0, old, value), size));
		return;
	default:
		return;
	}
	flags_set_carry(cpu, cf, flag_of(cpu));
}

static enum step unary_register(struct cpu *cpu, const struct op *op)
{
	uint64_t old = reg_get(cpu, op->dst, op->size);

	reg_set(cpu, op->dst, op->size, unary_value(cpu, op, old));
	unary_flags(cpu, op, old);
	return STEP_NEXT;
}

static enum step unary_memory(struct cpu *cpu, const struct op *op)
{
	uint64_t linear, old;
	enum step step = op_linear(cpu, op, &linear);

	if (!step)
		step = mem_load_rmw(cpu, linear, op->size, &old);
	if (!step)
		step = mem_store(cpu, linear, op->size, unary_value(cpu, op, old));
	if (step)
		return step;
	unary_flags(cpu, op, old);
	return STEP_NEXT;
}

static enum step unary_locked(struct cpu *cpu, const struct op *op)
{
	uint64_t old = 0;
	enum step step = mem_update(cpu, op, unary_value, &old);

	if (!step)
		unary_flags(cpu, op, old);
	return step;
}

static op_fn bind_unary(struct op *op, const struct decoded *decoded)
{
	if (op->kind[0] == OPERAND_REG)
		return unary_register;
	return op->flags & OP_LOCK ? unary_locked : unary_memory;
}

enum step mem_update(struct cpu *cpu, const struct op *op, rmw_fn compute, uint64_t *old)
{
	struct mem_cmpxchg_request request = {.size_bytes = op->size};
	uint64_t found;
	int swapped = 0;
	enum step step = op_linear(cpu, op, &request.linear);

	if (!step)
		step = mem_load_rmw(cpu, request.linear, op->size, &found);
	while (!step && !swapped) {
		*old = found;
		request.desired = compute(cpu, op, found) & size_mask(op->size);
		step = mem_cmpxchg(cpu, &request, &found, &swapped);
	}
	return step;
}

const struct insn_desc exec_alu_table[] = {
    {ZYDIS_MNEMONIC_ADD, NULL, bind_alu, ALU_ADD},
    {ZYDIS_MNEMONIC_ADC, NULL, bind_alu, ALU_ADC},
    {ZYDIS_MNEMONIC_SUB, NULL, bind_alu, ALU_SUB},
    {ZYDIS_MNEMONIC_SBB, NULL, bind_alu, ALU_SBB},
    {ZYDIS_MNEMONIC_AND, NULL, bind_alu, ALU_AND},
    {ZYDIS_MNEMONIC_OR, NULL, bind_alu, ALU_OR},
    {ZYDIS_MNEMONIC_XOR, NULL, bind_alu, ALU_XOR},
    {ZYDIS_MNEMONIC_CMP, NULL, bind_alu, ALU_CMP},
    {ZYDIS_MNEMONIC_TEST, NULL, bind_alu, ALU_TEST},
    {ZYDIS_MNEMONIC_INC, NULL, bind_unary, UNARY_INC},
    {ZYDIS_MNEMONIC_DEC, NULL, bind_unary, UNARY_DEC},
    {ZYDIS_MNEMONIC_NEG, NULL, bind_unary, UNARY_NEG},
    {ZYDIS_MNEMONIC_NOT, NULL, bind_unary, UNARY_NOT},
    {0, NULL, NULL, 0},
};
