/* AVX: what its instructions need, those that SSE has too, lane by lane, and the moves. */
#include "vcpu/exec/avx.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

static enum step operand_load(struct cpu *cpu, const struct op *op, union avx_value *value)
{
	uint64_t linear;
	enum step step = op_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	memset(value, 0, sizeof(*value));
	if (op->mem_size > 8)
		return mem_read(cpu, linear, value, op->mem_size);
	return mem_load(cpu, linear, op->mem_size, &value->qword[0]);
}

enum step avx_operand(struct cpu *cpu, const struct op *op, unsigned int which,
		      union avx_value *value)
{
	const uint16_t *reg = &op->dst;

	if (op->kind[which] == OPERAND_MEM)
		return operand_load(cpu, op, value);
	avx_get(cpu, reg[which], value);
	return STEP_NEXT;
}

enum step avx_sources(struct cpu *cpu, const struct op *op, union avx_value *first,
		      union avx_value *second)
{
	int has_three = op->kind[2] == OPERAND_REG || op->kind[2] == OPERAND_MEM;
	enum step step = avx_check(cpu);

	if (likely(!step))
		step = avx_operand(cpu, op, has_three ? 2 : 1, second);
	if (unlikely(step))
		return step;
	if (has_three)
		avx_get(cpu, op->src, first);
	else
		*first = *second;
	return STEP_NEXT;
}

/*
 * Instructions that SSE has, too: a lane each time by the kernel of that one. op->aux is the kernel
 * of the lower lane, op->imm that of the upper one, whose bits of an immediate may be others.
 */

static void lanes_run(const struct op *op, union avx_value *first, const union avx_value *second)
{
	first->lane[0] = ((vec_fn)(uintptr_t)op->aux)(first->lane[0], second->lane[0]);
	if (op->vector_bytes == 32)
		first->lane[1] = ((vec_fn)(uintptr_t)op->imm)(first->lane[1], second->lane[1]);
}

static enum step exec_binary(struct cpu *cpu, const struct op *op)
{
	union avx_value first, second;
	enum step step = avx_sources(cpu, op, &first, &second);

	if (unlikely(step))
		return step;
	lanes_run(op, &first, &second);
	avx_set(cpu, op, &first);
	return STEP_NEXT;
}

static enum step exec_float(struct cpu *cpu, const struct op *op)
{
	union avx_value first, second;
	enum step step = avx_sources(cpu, op, &first, &second);
	struct sse_float_scope scope;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	lanes_run(op, &first, &second);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		avx_set(cpu, op, &first);
	return step;
}

op_fn avx_bind_binary(struct op *op, const struct decoded *decoded)
{
	op->imm = op->aux;
	return exec_binary;
}

op_fn avx_bind_float(struct op *op, const struct decoded *decoded)
{
	op->imm = op->aux;
	return exec_float;
}

/* How many bits of the immediate are the lower lane's alone. */
static unsigned int lane_shift(const struct op *op)
{
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_VSHUFPD:
	case ZYDIS_MNEMONIC_VBLENDPD:
		return 2;
	case ZYDIS_MNEMONIC_VMPSADBW:
		return 3;
	case ZYDIS_MNEMONIC_VBLENDPS:
		return 4;
	default:
		return 0;
	}
}

static void imm_choose(struct op *op)
{
	uint64_t kernels = op->aux, imm = op->imm & 0xff;

	op->aux = kernels + imm * 8;
	op->imm = kernels + (imm >> lane_shift(op)) * 8;
}

op_fn avx_bind_imm(struct op *op, const struct decoded *decoded)
{
	imm_choose(op);
	return exec_binary;
}

op_fn avx_bind_float_imm(struct op *op, const struct decoded *decoded)
{
	imm_choose(op);
	return exec_float;
}

/* Where the result's elements are wider its upper lane comes from what follows in the source. */

static void widen_run(const struct op *op, union avx_value *value)
{
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	vec source = value->lane[0], upper = source;

	/* op->imm: how many bytes become a lane. */
	memset(&upper, 0, sizeof(upper));
	memcpy(&upper, (const char *)&source + op->imm, op->imm);
	value->lane[0] = kernel(source, source);
	value->lane[1] = kernel(upper, upper);
}

static enum step exec_widen(struct cpu *cpu, const struct op *op)
{
	union avx_value unused, value;
	enum step step = avx_sources(cpu, op, &unused, &value);

	if (unlikely(step))
		return step;
	widen_run(op, &value);
	avx_set(cpu, op, &value);
	return STEP_NEXT;
}

static enum step exec_float_widen(struct cpu *cpu, const struct op *op)
{
	union avx_value unused, value;
	enum step step = avx_sources(cpu, op, &unused, &value);
	struct sse_float_scope scope;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	widen_run(op, &value);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		avx_set(cpu, op, &value);
	return step;
}

op_fn avx_bind_widen(struct op *op, const struct decoded *decoded)
{
	if (op->vector_bytes == 16)
		return avx_bind_binary(op, decoded);
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_VPMOVSXBQ:
	case ZYDIS_MNEMONIC_VPMOVZXBQ:
		op->imm = 2;
		break;
	case ZYDIS_MNEMONIC_VPMOVSXBD:
	case ZYDIS_MNEMONIC_VPMOVZXBD:
	case ZYDIS_MNEMONIC_VPMOVSXWQ:
	case ZYDIS_MNEMONIC_VPMOVZXWQ:
		op->imm = 4;
		break;
	default:
		op->imm = 8;
		break;
	}
	return exec_widen;
}

op_fn avx_bind_float_widen(struct op *op, const struct decoded *decoded)
{
	if (op->vector_bytes == 16)
		return avx_bind_float(op, decoded);
	op->imm = 8;
	return exec_float_widen;
}

static enum step exec_float_narrow(struct cpu *cpu, const struct op *op)
{
	union avx_value unused, value;
	enum step step = avx_sources(cpu, op, &unused, &value);
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	struct sse_float_scope scope;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	value.lane[0] = kernel(value.lane[0], value.lane[0]);
	value.lane[1] = kernel(value.lane[1], value.lane[1]);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		avx_set_low(cpu, op, (vec){value.lane[0][0], value.lane[1][0]});
	return step;
}

op_fn avx_bind_float_narrow(struct op *op, const struct decoded *decoded)
{
	return op->vector_bytes == 16 ? avx_bind_float(op, decoded) : exec_float_narrow;
}

/* Moves of a whole register, from anywhere to anywhere. op->aux: must memory be aligned? */

static enum step move_linear(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	enum step step = avx_check(cpu);

	if (likely(!step))
		step = op_linear(cpu, op, linear);
	if (likely(!step) && op->aux && unlikely(*linear & (op->vector_bytes - 1u)))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return step;
}

static enum step exec_move_load(struct cpu *cpu, const struct op *op)
{
	union avx_value value;
	uint64_t linear;
	enum step step = move_linear(cpu, op, &linear);

	if (likely(!step))
		step = mem_read(cpu, linear, &value, op->vector_bytes);
	if (likely(!step))
		avx_set(cpu, op, &value);
	return step;
}

static enum step exec_move_store(struct cpu *cpu, const struct op *op)
{
	union avx_value value;
	uint64_t linear;
	enum step step = move_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	avx_get(cpu, op->src, &value);
	return mem_write(cpu, linear, &value, op->vector_bytes);
}

static enum step exec_move_register(struct cpu *cpu, const struct op *op)
{
	union avx_value value;
	enum step step = avx_check(cpu);

	if (unlikely(step))
		return step;
	avx_get(cpu, op->src, &value);
	avx_set(cpu, op, &value);
	return STEP_NEXT;
}

static op_fn bind_move(struct op *op, const struct decoded *decoded)
{
	if (op->kind[0] == OPERAND_MEM)
		return exec_move_store;
	return op->kind[1] == OPERAND_MEM ? exec_move_load : exec_move_register;
}

/* VMOVSS and VMOVSD: op->aux is the size of the element. Between registers the rest is operand 1's.
 */

static enum step exec_scalar_load(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);
	uint64_t value;

	if (likely(!step))
		step = op_load(cpu, op, (unsigned int)op->aux, &value);
	if (likely(!step))
		avx_set_low(cpu, op, (vec){(long long)value, 0});
	return step;
}

static enum step exec_scalar_store(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);

	if (unlikely(step))
		return step;
	return op_store(cpu, op, (unsigned int)op->aux, (uint64_t)(*sse_register(cpu, op->src))[0]);
}

static enum step exec_scalar_register(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);
	vec value;

	if (unlikely(step))
		return step;
	value = *sse_register(cpu, op->src);
	memcpy(&value, sse_register(cpu, op->src2), op->aux);
	avx_set_low(cpu, op, value);
	return STEP_NEXT;
}

static op_fn bind_scalar(struct op *op, const struct decoded *decoded)
{
	if (op->kind[0] == OPERAND_MEM)
		return exec_scalar_store;
	return op->kind[1] == OPERAND_MEM ? exec_scalar_load : exec_scalar_register;
}

/*
 * Halves: op->aux is the half of the result that operand 2 gives, the other is operand 1's. From a
 * register it is the other half that VMOVLHPS and VMOVHLPS take.
 */

static enum step exec_half_load(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);
	uint64_t half;
	vec value;

	if (likely(!step))
		step = op_load(cpu, op, 8, &half);
	if (unlikely(step))
		return step;
	value = *sse_register(cpu, op->src);
	value[op->aux] = (long long)half;
	avx_set_low(cpu, op, value);
	return STEP_NEXT;
}

static enum step exec_half_store(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);

	if (unlikely(step))
		return step;
	return op_store(cpu, op, 8, (uint64_t)(*sse_register(cpu, op->src))[op->aux]);
}

static enum step exec_half_register(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);
	vec value;

	if (unlikely(step))
		return step;
	value = *sse_register(cpu, op->src);
	value[op->aux] = (*sse_register(cpu, op->src2))[!op->aux];
	avx_set_low(cpu, op, value);
	return STEP_NEXT;
}

static op_fn bind_half(struct op *op, const struct decoded *decoded)
{
	if (op->kind[0] == OPERAND_MEM)
		return exec_half_store;
	return op->kind[2] == OPERAND_MEM ? exec_half_load : exec_half_register;
}

/* Outside 64-bit mode registers 8 .. 15 stay as they are. */

static enum step exec_zero_upper(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);

	if (likely(!step))
		memset(cpu->s.ymm_high, 0,
		       sizeof(cpu->s.ymm_high) / (cpu->code_bytes == 8 ? 1 : 2));
	return step;
}

static enum step exec_zero_all(struct cpu *cpu, const struct op *op)
{
	enum step step = exec_zero_upper(cpu, op);

	if (likely(!step))
		memset(cpu->s.xmm, 0, sizeof(cpu->s.xmm) / (cpu->code_bytes == 8 ? 1 : 2));
	return step;
}

#define ANYWHERE 0
#define ALIGNED 1
#define MOVE(name, alignment)                                     \
	{                                                         \
		ZYDIS_MNEMONIC_##name, NULL, bind_move, alignment \
	}

const struct insn_desc exec_avx_move_table[] = {
    MOVE(VMOVAPS, ALIGNED),
    MOVE(VMOVAPD, ALIGNED),
    MOVE(VMOVDQA, ALIGNED),
    MOVE(VMOVUPS, ANYWHERE),
    MOVE(VMOVUPD, ANYWHERE),
    MOVE(VMOVDQU, ANYWHERE),
    MOVE(VMOVNTPS, ALIGNED),
    MOVE(VMOVNTPD, ALIGNED),
    MOVE(VMOVNTDQ, ALIGNED),
    MOVE(VMOVNTDQA, ALIGNED),
    {0},
};

const struct insn_desc exec_avx_table[] = {
    MOVE(VLDDQU, ANYWHERE),
    {ZYDIS_MNEMONIC_VMOVSS, NULL, bind_scalar, 4},
    {ZYDIS_MNEMONIC_VMOVSD, NULL, bind_scalar, 8},
    {ZYDIS_MNEMONIC_VMOVLPS, NULL, bind_half, 0},
    {ZYDIS_MNEMONIC_VMOVLPD, NULL, bind_half, 0},
    {ZYDIS_MNEMONIC_VMOVHPS, NULL, bind_half, 1},
    {ZYDIS_MNEMONIC_VMOVHPD, NULL, bind_half, 1},
    {ZYDIS_MNEMONIC_VMOVHLPS, NULL, bind_half, 0},
    {ZYDIS_MNEMONIC_VMOVLHPS, NULL, bind_half, 1},
    {ZYDIS_MNEMONIC_VZEROUPPER, exec_zero_upper, NULL, 0},
    {ZYDIS_MNEMONIC_VZEROALL, exec_zero_all, NULL, 0},
    {0},
};
