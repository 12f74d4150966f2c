/* SSE: pack, unpack, shuffle, blend, insert, extract, extend, and the string comparisons. */
#include "vcpu/exec/avx.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/sse.h"

/* clang-format off */
#define BINARY_INSTRUCTIONS(X)                                                      \
	X(packsswb, PACKSSWB) X(packssdw, PACKSSDW) X(packuswb, PACKUSWB)           \
	X(packusdw, PACKUSDW) X(punpcklbw, PUNPCKLBW) X(punpcklwd, PUNPCKLWD)       \
	X(punpckldq, PUNPCKLDQ) X(punpcklqdq, PUNPCKLQDQ) X(punpckhbw, PUNPCKHBW)   \
	X(punpckhwd, PUNPCKHWD) X(punpckhdq, PUNPCKHDQ) X(punpckhqdq, PUNPCKHQDQ)   \
	X(unpcklps, UNPCKLPS) X(unpckhps, UNPCKHPS) X(unpcklpd, UNPCKLPD)           \
	X(unpckhpd, UNPCKHPD) X(pshufb, PSHUFB)

/* Each element of the result is wider than that of the source. */
#define EXTEND_INSTRUCTIONS(X)                                                      \
	X(pmovsxbw, PMOVSXBW) X(pmovsxbd, PMOVSXBD) X(pmovsxbq, PMOVSXBQ)           \
	X(pmovsxwd, PMOVSXWD)                                                       \
	X(pmovsxwq, PMOVSXWQ) X(pmovsxdq, PMOVSXDQ) X(pmovzxbw, PMOVZXBW)           \
	X(pmovzxbd, PMOVZXBD) X(pmovzxbq, PMOVZXBQ) X(pmovzxwd, PMOVZXWD)           \
	X(pmovzxwq, PMOVZXWQ) X(pmovzxdq, PMOVZXDQ)
/* clang-format on */

/* clang-format off */
#define IMM_INSTRUCTIONS(X)                                                         \
	X(pshufd, PSHUFD) X(pshuflw, PSHUFLW) X(pshufhw, PSHUFHW) X(shufps, SHUFPS) \
	X(shufpd, SHUFPD) X(palignr, PALIGNR) X(pblendw, PBLENDW)                   \
	X(blendps, BLENDPS) X(blendpd, BLENDPD)
/* clang-format on */

#define KERNEL_OF(name, mnemonic) VEC_KERNEL(name)
BINARY_INSTRUCTIONS(KERNEL_OF)
EXTEND_INSTRUCTIONS(KERNEL_OF)
#undef KERNEL_OF
#define KERNELS_OF(name, mnemonic) VEC_KERNELS_IMM(name, "%xmm1, %xmm0")
IMM_INSTRUCTIONS(KERNELS_OF)
VEC_KERNELS_IMM(insertps, "%xmm1, %xmm0")
#undef KERNELS_OF

/* From memory INSERTPS takes the element that is there, whatever the immediate selects. */
static op_fn bind_insertps(struct op *op, const struct decoded *decoded)
{
	if (op->kind[1] == OPERAND_MEM)
		op->imm &= 0x3f;
	return sse_bind_imm(op, decoded);
}

static op_fn bind_vinsertps(struct op *op, const struct decoded *decoded)
{
	if (op->kind[2] == OPERAND_MEM)
		op->imm &= 0x3f;
	return avx_bind_imm(op, decoded);
}

/* Blends whose mask is XMM0. */

typedef vec (*blend_fn)(vec dst, vec src, vec mask);

#define BLEND_KERNEL(name)                                                       \
	static vec name##_kernel(vec dst, vec src, vec mask)                     \
	{                                                                        \
		asm(#name " %%xmm0, %1, %0" : "+x"(dst) : "x"(src), "Yz"(mask)); \
		return dst;                                                      \
	}

BLEND_KERNEL(pblendvb)
BLEND_KERNEL(blendvps)
BLEND_KERNEL(blendvpd)

static enum step exec_blend(struct cpu *cpu, const struct op *op)
{
	blend_fn kernel = (blend_fn)(uintptr_t)op->aux;
	vec *dst = sse_register(cpu, op->dst);
	vec src;
	enum step step = sse_source(cpu, op, &src);

	if (likely(!step))
		*dst = kernel(*dst, src, *(const vec *)cpu->s.xmm[0]);
	return step;
}

/* The mask is operand 3, whose register is op->imm. */
static enum step exec_vex_blend(struct cpu *cpu, const struct op *op)
{
	blend_fn kernel = (blend_fn)(uintptr_t)op->aux;
	union avx_value dst, src, mask;
	enum step step = avx_sources(cpu, op, &dst, &src);

	if (unlikely(step))
		return step;
	avx_get(cpu, (unsigned int)op->imm, &mask);
	for (unsigned int i = 0; i < 2; i++)
		dst.lane[i] = kernel(dst.lane[i], src.lane[i], mask.lane[i]);
	avx_set(cpu, op, &dst);
	return STEP_NEXT;
}

static op_fn bind_vex_blend(struct op *op, const struct decoded *decoded)
{
	return exec_vex_blend;
}

/* Insert and extract: op->aux is the size of an element in bytes. */

static unsigned int element_offset(const struct op *op)
{
	return (op->imm * op->aux) & 15;
}

static enum step exec_insert(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value;

	if (unlikely(step))
		return step;
	step = op_read(cpu, op, 1, op->aux, &value);
	if (likely(!step))
		memcpy((char *)reg_vector(cpu, op->dst) + element_offset(op), &value, op->aux);
	return step;
}

/* The form of three operands. */
static enum step exec_vex_insert(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value;
	vec whole;

	if (likely(!step))
		step = op_read(cpu, op, 2, op->aux, &value);
	if (unlikely(step))
		return step;
	whole = *sse_register(cpu, op->src);
	memcpy((char *)&whole + element_offset(op), &value, op->aux);
	sse_set(cpu, op, whole);
	return STEP_NEXT;
}

static enum step exec_extract(struct cpu *cpu, const struct op *op)
{
	enum step step = sse_check(cpu, op);
	uint64_t value = 0;

	if (unlikely(step))
		return step;
	memcpy(&value, (char *)reg_vector(cpu, op->src) + element_offset(op), op->aux);
	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, op->aux, value);
	/* Shorter elements are zero-extended into the whole register. */
	reg_set(cpu, op->dst, 8, value);
	return STEP_NEXT;
}

static op_fn bind_insert(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? NULL : exec_insert;
}

static op_fn bind_vex_insert(struct op *op, const struct decoded *decoded)
{
	return exec_vex_insert;
}

static op_fn bind_extract(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? NULL : exec_extract;
}

/*
 * String comparisons. A kernel takes the operands, their lengths (used by the explicit forms) and
 * where to put RFLAGS and ECX; XMM0 comes back for the mask forms.
 */
struct string_result {
	uint64_t flags;
	uint64_t index;
};
typedef vec (*string_fn)(vec a, vec b, int a_length, int b_length, struct string_result *result);

asm(".pushsection .text\n"
    ".balign 16\n"
    "sse_string_tail:\n"
    "	pushfq\n"
    "	popq (%r8)\n"
    "	mov %rcx, 8(%r8)\n"
    "	ret\n"
    ".popsection\n");

#define STRING_KERNELS(name)                                        \
	extern const uint8_t name##_kernels[256][32];               \
	asm(".pushsection .text\n"                                  \
	    ".hidden " #name "_kernels\n"                           \
	    ".balign 32\n" #name "_kernels:\n"                      \
	    ".set kernel_imm, 0\n"                                  \
	    ".rept 256\n"                                           \
	    ".balign 32\n"                                          \
	    "mov %rdx, %r8\n"                                       \
	    "mov %edi, %eax\n"                                      \
	    "mov %esi, %edx\n" #name " $kernel_imm, %xmm1, %xmm0\n" \
	    "jmp sse_string_tail\n"                                 \
	    ".set kernel_imm, kernel_imm + 1\n"                     \
	    ".endr\n"                                               \
	    ".popsection\n");

STRING_KERNELS(pcmpestri)
STRING_KERNELS(pcmpestrm)
STRING_KERNELS(pcmpistri)
STRING_KERNELS(pcmpistrm)

/* Lengths saturate at 16, so that one kernel serves 32-bit and 64-bit lengths. */
static int string_length(const struct cpu *cpu, const struct op *op, enum cpu_gpr number)
{
	uint64_t value = cpu->s.gpr[number];
	int64_t length = op->size == 8 ? (int64_t)value : (int32_t)value;

	if (length < -16 || length > 16)
		return 16;
	return (int)length;
}

static enum step string_run(struct cpu *cpu, const struct op *op, vec *mask,
			    struct string_result *result)
{
	string_fn kernel = (string_fn)(uintptr_t)op->aux;
	enum step step = sse_check(cpu, op);
	vec src = {0, 0};

	if (unlikely(step))
		return step;
	if (op->kind[1] == OPERAND_MEM)
		step = sse_load_any(cpu, op, &src);
	else
		src = *sse_register(cpu, op->src);
	if (unlikely(step))
		return step;
	*mask = kernel(*sse_register(cpu, op->dst), src, string_length(cpu, op, CPU_RAX),
		       string_length(cpu, op, CPU_RDX), result);
	flags_set_arithmetic(cpu, result->flags & FLAGS_ARITHMETIC);
	return STEP_NEXT;
}

static enum step exec_string_index(struct cpu *cpu, const struct op *op)
{
	struct string_result result;
	vec mask;
	enum step step = string_run(cpu, op, &mask, &result);

	if (likely(!step))
		cpu->s.gpr[CPU_RCX] = (uint32_t)result.index;
	return step;
}

static enum step exec_string_mask(struct cpu *cpu, const struct op *op)
{
	struct string_result result;
	vec mask;
	enum step step = string_run(cpu, op, &mask, &result);

	if (unlikely(step))
		return step;
	*(vec *)cpu->s.xmm[0] = mask;
	if (op->vector_bytes)
		memset(cpu->s.ymm_high[0], 0, sizeof(cpu->s.ymm_high[0]));
	return STEP_NEXT;
}

static void string_prepare(struct op *op, const struct decoded *decoded)
{
	op->aux += (op->imm & 0xff) * 32;
	op->size = (decoded->insn.attributes & ZYDIS_ATTRIB_HAS_REX) && decoded->insn.raw.rex.W ? 8
		   : op->vector_bytes && decoded->insn.raw.vex.W && decoded->code_bytes == 8	? 8
												: 4;
}

static op_fn bind_string_index(struct op *op, const struct decoded *decoded)
{
	string_prepare(op, decoded);
	return exec_string_index;
}

static op_fn bind_string_mask(struct op *op, const struct decoded *decoded)
{
	string_prepare(op, decoded);
	return exec_string_mask;
}

#define ROW_OF(name, mnemonic) ROWS_OF(mnemonic, sse_bind_binary, avx_bind_binary, name##_kernel)
#define EXTEND_ROW_OF(name, mnemonic) \
	ROWS_OF(mnemonic, sse_bind_binary, avx_bind_widen, name##_kernel)
#define IMM_ROW_OF(name, mnemonic) ROWS_OF(mnemonic, sse_bind_imm, avx_bind_imm, name##_kernels)

const struct insn_desc exec_sse_shuffle_table[] = {
    /* clang-format off */
    BINARY_INSTRUCTIONS(ROW_OF)
    EXTEND_INSTRUCTIONS(EXTEND_ROW_OF)
    IMM_INSTRUCTIONS(IMM_ROW_OF)
    /* clang-format on */
    ROWS_OF(INSERTPS, bind_insertps, bind_vinsertps, insertps_kernels){
	ZYDIS_MNEMONIC_PBLENDVB, exec_blend, NULL, KERNEL_ADDRESS(pblendvb_kernel)},
    {ZYDIS_MNEMONIC_BLENDVPS, exec_blend, NULL, KERNEL_ADDRESS(blendvps_kernel)},
    {ZYDIS_MNEMONIC_BLENDVPD, exec_blend, NULL, KERNEL_ADDRESS(blendvpd_kernel)},
    {ZYDIS_MNEMONIC_VPBLENDVB, NULL, bind_vex_blend, KERNEL_ADDRESS(pblendvb_kernel)},
    {ZYDIS_MNEMONIC_VBLENDVPS, NULL, bind_vex_blend, KERNEL_ADDRESS(blendvps_kernel)},
    {ZYDIS_MNEMONIC_VBLENDVPD, NULL, bind_vex_blend, KERNEL_ADDRESS(blendvpd_kernel)},
    {ZYDIS_MNEMONIC_PINSRB, NULL, bind_insert, 1},
    {ZYDIS_MNEMONIC_PINSRW, NULL, bind_insert, 2},
    {ZYDIS_MNEMONIC_PINSRD, NULL, bind_insert, 4},
    {ZYDIS_MNEMONIC_PINSRQ, NULL, bind_insert, 8},
    {ZYDIS_MNEMONIC_VPINSRB, NULL, bind_vex_insert, 1},
    {ZYDIS_MNEMONIC_VPINSRW, NULL, bind_vex_insert, 2},
    {ZYDIS_MNEMONIC_VPINSRD, NULL, bind_vex_insert, 4},
    {ZYDIS_MNEMONIC_VPINSRQ, NULL, bind_vex_insert, 8},
    {ZYDIS_MNEMONIC_PEXTRB, NULL, bind_extract, 1},
    {ZYDIS_MNEMONIC_PEXTRW, NULL, bind_extract, 2},
    {ZYDIS_MNEMONIC_PEXTRD, NULL, bind_extract, 4},
    {ZYDIS_MNEMONIC_PEXTRQ, NULL, bind_extract, 8},
    {ZYDIS_MNEMONIC_VPEXTRB, NULL, bind_extract, 1},
    {ZYDIS_MNEMONIC_VPEXTRW, NULL, bind_extract, 2},
    {ZYDIS_MNEMONIC_VPEXTRD, NULL, bind_extract, 4},
    {ZYDIS_MNEMONIC_VPEXTRQ, NULL, bind_extract, 8},
    {ZYDIS_MNEMONIC_EXTRACTPS, NULL, bind_extract, 4},
    {ZYDIS_MNEMONIC_VEXTRACTPS, NULL, bind_extract, 4},
    ROWS_OF(PCMPESTRI, bind_string_index, bind_string_index, pcmpestri_kernels)
	ROWS_OF(PCMPISTRI, bind_string_index, bind_string_index, pcmpistri_kernels)
	    ROWS_OF(PCMPESTRM, bind_string_mask, bind_string_mask, pcmpestrm_kernels)
		ROWS_OF(PCMPISTRM, bind_string_mask, bind_string_mask, pcmpistrm_kernels){0},
};
