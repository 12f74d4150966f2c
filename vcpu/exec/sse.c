/* SSE: what all its instructions need, and the moves. */
#include "vcpu/exec/sse.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/run/raise.h"

enum step sse_refuse(struct cpu *cpu)
{
	if ((cpu->s.cr0 & CR0_EM) || !(cpu->s.cr4 & CR4_OSFXSR))
		return cpu_raise(cpu, VECTOR_UD);
	return cpu_raise(cpu, VECTOR_NM);
}

enum step avx_refuse(struct cpu *cpu)
{
	if (!cpu_is_protected(cpu) || !(cpu->s.cr4 & CR4_OSXSAVE) ||
	    (cpu->s.xcr0 & XSTATE_YMM) != XSTATE_YMM)
		return cpu_raise(cpu, VECTOR_UD);
	return cpu_raise(cpu, VECTOR_NM);
}

int sse_is_mmx(const struct decoded *decoded)
{
	for (unsigned int i = 0; i < decoded->insn.operand_count_visible; i++) {
		const ZydisDecodedOperand *operand = &decoded->operand[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_MMX)
			return 1;
	}
	return 0;
}

enum alignment { ALIGNMENT_ANY, ALIGNMENT_VECTOR };

static enum step operand_linear(struct cpu *cpu, const struct op *op, enum alignment alignment,
				uint64_t *linear)
{
	enum step step = op_linear(cpu, op, linear);

	if (unlikely(step))
		return step;
	if (alignment == ALIGNMENT_VECTOR && op->mem_size == sizeof(vec) && (*linear & 15) &&
	    !op->vector_bytes)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

static enum step vector_load(struct cpu *cpu, const struct op *op, enum alignment alignment,
			     vec *value)
{
	uint64_t linear;
	enum step step = operand_linear(cpu, op, alignment, &linear);
	uint64_t low;

	if (unlikely(step))
		return step;
	if (op->mem_size == sizeof(vec))
		return mem_read(cpu, linear, value, sizeof(vec));
	step = mem_load(cpu, linear, op->mem_size, &low);
	if (likely(!step))
		*value = (vec){(long long)low, 0};
	return step;
}

static enum step vector_store(struct cpu *cpu, const struct op *op, enum alignment alignment,
			      const vec *value)
{
	uint64_t linear;
	enum step step = operand_linear(cpu, op, alignment, &linear);

	if (unlikely(step))
		return step;
	if (op->mem_size == sizeof(vec))
		return mem_write(cpu, linear, value, sizeof(vec));
	return mem_store(cpu, linear, op->mem_size, (uint64_t)(*value)[0]);
}

enum step sse_load_any(struct cpu *cpu, const struct op *op, vec *value)
{
	return vector_load(cpu, op, ALIGNMENT_ANY, value);
}

enum step sse_load(struct cpu *cpu, const struct op *op, vec *value)
{
	return vector_load(cpu, op, ALIGNMENT_VECTOR, value);
}

enum step sse_store_any(struct cpu *cpu, const struct op *op, const vec *value)
{
	return vector_store(cpu, op, ALIGNMENT_ANY, value);
}

enum step sse_store(struct cpu *cpu, const struct op *op, const vec *value)
{
	return vector_store(cpu, op, ALIGNMENT_VECTOR, value);
}

static enum step exec_binary(struct cpu *cpu, const struct op *op)
{
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	vec *dst = sse_register(cpu, op->dst);
	vec src;
	enum step step = sse_source(cpu, op, &src);

	if (likely(!step))
		*dst = kernel(*dst, src);
	return step;
}

op_fn sse_bind_binary(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? NULL : exec_binary;
}

op_fn sse_bind_imm(struct op *op, const struct decoded *decoded)
{
	op->aux += (op->imm & 0xff) * 8;
	return sse_bind_binary(op, decoded);
}

/* Moves of a whole register, from anywhere to anywhere. */

static enum step exec_move_load(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	vec value;

	if (unlikely(step))
		return step;
	step =
	    op->aux == ALIGNMENT_VECTOR ? sse_load(cpu, op, &value) : sse_load_any(cpu, op, &value);
	if (likely(!step))
		sse_set(cpu, op, value);
	return step;
}

static enum step exec_move_store(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (unlikely(step))
		return step;
	if (op->aux == ALIGNMENT_VECTOR)
		return sse_store(cpu, op, sse_register(cpu, op->src));
	return sse_store_any(cpu, op, sse_register(cpu, op->src));
}

static enum step exec_move_register(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		*sse_register(cpu, op->dst) = *sse_register(cpu, op->src);
	return step;
}

static op_fn bind_move(struct op *op, const struct decoded *decoded)
{
	if (sse_is_mmx(decoded))
		return NULL;
	if (op->kind[0] == OPERAND_MEM)
		return exec_move_store;
	return op->kind[1] == OPERAND_MEM ? exec_move_load : exec_move_register;
}

/* MOVSS and MOVSD between registers change the low element only. */

static enum step exec_move_low32(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		memcpy(sse_register(cpu, op->dst), sse_register(cpu, op->src), 4);
	return step;
}

static enum step exec_move_low64(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		memcpy(sse_register(cpu, op->dst), sse_register(cpu, op->src), 8);
	return step;
}

static op_fn bind_move_scalar(struct op *op, const struct decoded *decoded)
{
	/* MOVSD without operands is the string instruction: another table's. */
	if (!decoded->insn.operand_count_visible ||
	    decoded->insn.meta.category == ZYDIS_CATEGORY_STRINGOP)
		return NULL;
	if (op->kind[0] == OPERAND_REG && op->kind[1] == OPERAND_REG)
		return decoded->insn.mnemonic == ZYDIS_MNEMONIC_MOVSS ? exec_move_low32
								      : exec_move_low64;
	return bind_move(op, decoded);
}

/* MOVD and MOVQ between vector registers, general registers and memory. */

static enum step exec_gpr_to_vector(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value = reg_get(cpu, op->src, op->aux);

	if (likely(!step))
		sse_set(cpu, op, (vec){(long long)value, 0});
	return step;
}

static enum step exec_vector_to_gpr(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		reg_set(cpu, op->dst, op->aux, (uint64_t)(*sse_register(cpu, op->src))[0]);
	return step;
}

static enum step exec_movq_register(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		sse_set(cpu, op, (vec){(*sse_register(cpu, op->src))[0], 0});
	return step;
}

static int is_vector_operand(const struct decoded *decoded, unsigned int which)
{
	const ZydisDecodedOperand *operand = &decoded->operand[which];

	return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_XMM;
}

static op_fn bind_move_element(struct op *op, const struct decoded *decoded)
{
	if (sse_is_mmx(decoded))
		return NULL;
	if (op->kind[0] == OPERAND_MEM || op->kind[1] == OPERAND_MEM) {
		op->aux = ALIGNMENT_ANY;
		return bind_move(op, decoded);
	}
	if (is_vector_operand(decoded, 0) && is_vector_operand(decoded, 1))
		return exec_movq_register;
	return is_vector_operand(decoded, 0) ? exec_gpr_to_vector : exec_vector_to_gpr;
}

/* Halves: op->aux is the half of the register that takes part. */

static enum step exec_half_load(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value;

	if (unlikely(step))
		return step;
	step = op_load(cpu, op, 8, &value);
	if (likely(!step))
		(*sse_register(cpu, op->dst))[op->aux] = (long long)value;
	return step;
}

static enum step exec_half_store(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (unlikely(step))
		return step;
	return op_store(cpu, op, 8, (uint64_t)(*sse_register(cpu, op->src))[op->aux]);
}

static op_fn bind_half(struct op *op, const struct decoded *decoded)
{
	return op->kind[0] == OPERAND_MEM ? exec_half_store : exec_half_load;
}

static enum step exec_movhlps(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		(*sse_register(cpu, op->dst))[0] = (*sse_register(cpu, op->src))[1];
	return step;
}

static enum step exec_movlhps(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		(*sse_register(cpu, op->dst))[1] = (*sse_register(cpu, op->src))[0];
	return step;
}

VEC_KERNEL(movddup)
VEC_KERNEL(movshdup)
VEC_KERNEL(movsldup)

/* Stores past the cache. */

static enum step exec_movnti(struct cpu *cpu, const struct op *op)
{
	return op_store(cpu, op, op->mem_size, reg_get(cpu, op->src, op->mem_size));
}

/* MASKMOVDQU: the bytes whose mask has its top bit, to the address in RDI. */
static enum step exec_maskmovdqu(struct cpu *cpu, const struct op *op)
{
	const uint8_t *bytes = reg_vector(cpu, op->dst), *mask = reg_vector(cpu, op->src);
	enum step step = sse_check(cpu, op);
	uint64_t linear;

	if (unlikely(step))
		return step;
	step = op_linear(cpu, op, &linear);
	if (!step)
		step = mem_check_alignment(cpu, linear, 8);
	/* Look before the first byte is written, so that a fault finds nothing changed. */
	for (unsigned int i = 0; !step && i < 16; i++) {
		if (mask[i] & 0x80)
			step = mem_probe_write(cpu, linear + i, 1);
	}
	for (unsigned int i = 0; !step && i < 16; i++) {
		if (mask[i] & 0x80)
			step = mem_store(cpu, linear + i, 1, bytes[i]);
	}
	return step;
}

void sse_bind_at_rdi(struct op *op, const struct decoded *decoded, unsigned int size_bytes)
{
	static const uint8_t segregs[] = {CPU_ES, CPU_CS, CPU_SS, CPU_DS, CPU_FS, CPU_GS};

	/* Its memory operand is hidden: DS:RDI, where the segment may be overridden. */
	for (unsigned int i = 0; i < decoded->insn.operand_count; i++) {
		const ZydisDecodedOperand *operand = &decoded->operand[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		op->seg = segregs[operand->mem.segment - ZYDIS_REGISTER_ES];
		op->base = offsetof(struct cpu, s.gpr[CPU_RDI]);
		op->index = offsetof(struct cpu, zero);
		op->seg_base = offsetof(struct cpu, zero);
		if (decoded->code_bytes != 8 || op->seg >= CPU_FS)
			op->seg_base = (uint16_t)(offsetof(struct cpu, s.seg) +
						  op->seg * sizeof(struct cpu_segment));
	}
	op->flags |= OP_STORES;
	op->disp = 0;
	op->mem_size = (uint8_t)size_bytes;
	op->scale_shift = 0;
}

static op_fn bind_maskmovdqu(struct op *op, const struct decoded *decoded)
{
	sse_bind_at_rdi(op, decoded, 16);
	return exec_maskmovdqu;
}

/* One bit an element: MOVMSKPS and its like. */

typedef uint32_t (*mask_fn)(vec src);

#define MASK_KERNEL(name)                                     \
	static uint32_t name##_kernel(vec src)                \
	{                                                     \
		uint32_t mask;                                \
                                                              \
		asm(#name " %1, %0" : "=r"(mask) : "x"(src)); \
		return mask;                                  \
	}

MASK_KERNEL(movmskps)
MASK_KERNEL(movmskpd)
MASK_KERNEL(pmovmskb)

/* op->imm: the elements of a lane. */
static enum step exec_mask(struct cpu *cpu, const struct op *op)
{
	mask_fn kernel = (mask_fn)(uintptr_t)op->aux;
	enum step step = sse_check(cpu, op);
	uint32_t mask;

	if (unlikely(step))
		return step;
	mask = kernel(*sse_register(cpu, op->src));
	if (op->vector_bytes == 32)
		mask |= kernel(*avx_high(cpu, op->src)) << op->imm;
	reg_set(cpu, op->dst, 4, mask);
	return STEP_NEXT;
}

static op_fn bind_mask(struct op *op, const struct decoded *decoded)
{
	op->imm = op->aux == KERNEL_ADDRESS(pmovmskb_kernel)   ? 16
		  : op->aux == KERNEL_ADDRESS(movmskps_kernel) ? 4
							       : 2;
	return sse_is_mmx(decoded) ? NULL : exec_mask;
}

#define MOVE(name, alignment)                                     \
	{                                                         \
		ZYDIS_MNEMONIC_##name, NULL, bind_move, alignment \
	}

const struct insn_desc exec_sse_table[] = {
    MOVE(MOVAPS, ALIGNMENT_VECTOR),
    MOVE(MOVAPD, ALIGNMENT_VECTOR),
    MOVE(MOVDQA, ALIGNMENT_VECTOR),
    MOVE(MOVUPS, ALIGNMENT_ANY),
    MOVE(MOVUPD, ALIGNMENT_ANY),
    MOVE(MOVDQU, ALIGNMENT_ANY),
    MOVE(LDDQU, ALIGNMENT_ANY),
    MOVE(MOVNTPS, ALIGNMENT_VECTOR),
    MOVE(MOVNTPD, ALIGNMENT_VECTOR),
    MOVE(MOVNTDQ, ALIGNMENT_VECTOR),
    MOVE(MOVNTDQA, ALIGNMENT_VECTOR),
    {ZYDIS_MNEMONIC_MOVSS, NULL, bind_move_scalar, ALIGNMENT_ANY},
    {ZYDIS_MNEMONIC_MOVSD, NULL, bind_move_scalar, ALIGNMENT_ANY},
    {ZYDIS_MNEMONIC_MOVD, NULL, bind_move_element, 4},
    {ZYDIS_MNEMONIC_MOVQ, NULL, bind_move_element, 8},
    {ZYDIS_MNEMONIC_VMOVD, NULL, bind_move_element, 4},
    {ZYDIS_MNEMONIC_VMOVQ, NULL, bind_move_element, 8},
    {ZYDIS_MNEMONIC_MOVLPS, NULL, bind_half, 0},
    {ZYDIS_MNEMONIC_MOVLPD, NULL, bind_half, 0},
    {ZYDIS_MNEMONIC_MOVHPS, NULL, bind_half, 1},
    {ZYDIS_MNEMONIC_MOVHPD, NULL, bind_half, 1},
    {ZYDIS_MNEMONIC_MOVHLPS, exec_movhlps, NULL, 0},
    {ZYDIS_MNEMONIC_MOVLHPS, exec_movlhps, NULL, 0},
    ROWS_OF(MOVDDUP, sse_bind_binary, avx_bind_binary, movddup_kernel)
	ROWS_OF(MOVSHDUP, sse_bind_binary, avx_bind_binary, movshdup_kernel)
	    ROWS_OF(MOVSLDUP, sse_bind_binary, avx_bind_binary,
		    movsldup_kernel){ZYDIS_MNEMONIC_MOVNTI, exec_movnti, NULL, 0},
    {ZYDIS_MNEMONIC_MASKMOVDQU, NULL, bind_maskmovdqu, 0},
    {ZYDIS_MNEMONIC_VMASKMOVDQU, NULL, bind_maskmovdqu, 0},
    ROWS_OF(MOVMSKPS, bind_mask, bind_mask, movmskps_kernel)
	ROWS_OF(MOVMSKPD, bind_mask, bind_mask, movmskpd_kernel)
	    ROWS_OF(PMOVMSKB, bind_mask, bind_mask, pmovmskb_kernel){0},
};
