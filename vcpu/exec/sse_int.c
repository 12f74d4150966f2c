/* SSE: integer arithmetic, comparisons, logic and shifts on vectors. */
#include "vcpu/exec/flags.h"
#include "vcpu/exec/sse.h"

/* Every instruction here reads two vectors and writes one: a name for its kernel and its row. */
/* clang-format off */
#define BINARY_INSTRUCTIONS(X)                                                      \
	X(paddb, PADDB) X(paddw, PADDW) X(paddd, PADDD) X(paddq, PADDQ)             \
	X(paddsb, PADDSB) X(paddsw, PADDSW) X(paddusb, PADDUSB) X(paddusw, PADDUSW) \
	X(psubb, PSUBB) X(psubw, PSUBW) X(psubd, PSUBD) X(psubq, PSUBQ)             \
	X(psubsb, PSUBSB) X(psubsw, PSUBSW) X(psubusb, PSUBUSB) X(psubusw, PSUBUSW) \
	X(pmullw, PMULLW) X(pmulhw, PMULHW) X(pmulhuw, PMULHUW) X(pmuludq, PMULUDQ) \
	X(pmaddwd, PMADDWD) X(pavgb, PAVGB) X(pavgw, PAVGW) X(psadbw, PSADBW)       \
	X(pminub, PMINUB) X(pmaxub, PMAXUB) X(pminsw, PMINSW) X(pmaxsw, PMAXSW)     \
	X(pand, PAND) X(pandn, PANDN) X(por, POR) X(pxor, PXOR) X(andps, ANDPS)     \
	X(andpd, ANDPD) X(andnps, ANDNPS) X(andnpd, ANDNPD) X(orps, ORPS)           \
	X(orpd, ORPD) X(xorps, XORPS) X(xorpd, XORPD) X(pcmpeqb, PCMPEQB)           \
	X(pcmpeqw, PCMPEQW) X(pcmpeqd, PCMPEQD) X(pcmpgtb, PCMPGTB)                 \
	X(pcmpgtw, PCMPGTW) X(pcmpgtd, PCMPGTD)                                     \
	/* SSSE3 */                                                                 \
	X(phaddw, PHADDW) X(phaddd, PHADDD) X(phaddsw, PHADDSW) X(phsubw, PHSUBW)   \
	X(phsubd, PHSUBD) X(phsubsw, PHSUBSW) X(pmaddubsw, PMADDUBSW)               \
	X(pmulhrsw, PMULHRSW) X(psignb, PSIGNB) X(psignw, PSIGNW) X(psignd, PSIGND) \
	X(pabsb, PABSB) X(pabsw, PABSW) X(pabsd, PABSD)                             \
	/* SSE4 */                                                                  \
	X(pmuldq, PMULDQ) X(pmulld, PMULLD) X(pcmpeqq, PCMPEQQ) X(pcmpgtq, PCMPGTQ) \
	X(pminsb, PMINSB) X(pminuw, PMINUW) X(pminud, PMINUD) X(pminsd, PMINSD)     \
	X(pmaxsb, PMAXSB) X(pmaxuw, PMAXUW) X(pmaxud, PMAXUD) X(pmaxsd, PMAXSD)     \
	X(phminposuw, PHMINPOSUW)
/* clang-format on */

/* Shifts whose count is the low half of a vector; an immediate count becomes one. */
/* clang-format off */
#define SHIFT_INSTRUCTIONS(X)                                                       \
	X(psllw, PSLLW) X(pslld, PSLLD) X(psllq, PSLLQ) X(psrlw, PSRLW)             \
	X(psrld, PSRLD) X(psrlq, PSRLQ) X(psraw, PSRAW) X(psrad, PSRAD)
/* clang-format on */

#define KERNEL_OF(name, mnemonic) VEC_KERNEL(name)
BINARY_INSTRUCTIONS(KERNEL_OF)
SHIFT_INSTRUCTIONS(KERNEL_OF)
#undef KERNEL_OF

VEC_KERNELS_IMM(pslldq, "%xmm0")
VEC_KERNELS_IMM(psrldq, "%xmm0")
VEC_KERNELS_IMM(mpsadbw, "%xmm1, %xmm0")
VEC_KERNELS_IMM(pclmulqdq, "%xmm1, %xmm0")

static enum step exec_shift_imm(struct cpu *cpu, const struct op *op)
{
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	vec *dst = sse_register(cpu, op->dst);
	enum step step = sse_check(cpu, op);

	if (likely(!step))
		*dst = kernel(*dst, (vec){(long long)(op->imm & 0xff), 0});
	return step;
}

static op_fn bind_shift(struct op *op, const struct decoded *decoded)
{
	if (op->kind[1] != OPERAND_IMM || sse_is_mmx(decoded))
		return sse_bind_binary(op, decoded);
	return exec_shift_imm;
}

/* Both lanes by one count. */
static enum step exec_vex_shift(struct cpu *cpu, const struct op *op)
{
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	enum step step = sse_check(cpu, op);
	vec count = {(long long)(op->imm & 0xff), 0};

	if (likely(!step) && op->kind[2] != OPERAND_IMM)
		step = sse_operand(cpu, op, 2, &count);
	if (unlikely(step))
		return step;
	if (op->vector_bytes == 32)
		*avx_high(cpu, op->dst) = kernel(*avx_high(cpu, op->src), count);
	else
		*avx_high(cpu, op->dst) = (vec){0, 0};
	*sse_register(cpu, op->dst) = kernel(*sse_register(cpu, op->src), count);
	return STEP_NEXT;
}

static op_fn bind_vex_shift(struct op *op, const struct decoded *decoded)
{
	return exec_vex_shift;
}

static op_fn bind_vex_shift_bytes(struct op *op, const struct decoded *decoded)
{
	op->aux += (op->imm & 0xff) * 8;
	return exec_vex_shift;
}

static op_fn bind_shift_bytes(struct op *op, const struct decoded *decoded)
{
	op->aux += (op->imm & 0xff) * 8;
	return exec_shift_imm;
}

static enum step exec_ptest(struct cpu *cpu, const struct op *op)
{
	vec src;
	enum step step = sse_source(cpu, op, &src);
	unsigned char zf, cf;

	if (unlikely(step))
		return step;
	asm("ptest %3, %2" : "=@ccz"(zf), "=@ccc"(cf) : "x"(*sse_register(cpu, op->dst)), "x"(src));
	flags_set_arithmetic(cpu, (zf ? FLAG_ZF : 0) | (cf ? FLAG_CF : 0));
	return STEP_NEXT;
}

#define ROW_OF(name, mnemonic) ROWS_OF(mnemonic, sse_bind_binary, avx_bind_binary, name##_kernel)
#define SHIFT_ROW_OF(name, mnemonic) ROWS_OF(mnemonic, bind_shift, bind_vex_shift, name##_kernel)

const struct insn_desc exec_sse_int_table[] = {
    /* clang-format off */
    BINARY_INSTRUCTIONS(ROW_OF)
    SHIFT_INSTRUCTIONS(SHIFT_ROW_OF)
    /* clang-format on */
    ROWS_OF(PSLLDQ, bind_shift_bytes, bind_vex_shift_bytes, pslldq_kernels)
	ROWS_OF(PSRLDQ, bind_shift_bytes, bind_vex_shift_bytes, psrldq_kernels)
	    ROWS_OF(MPSADBW, sse_bind_imm, avx_bind_imm, mpsadbw_kernels)
		ROWS_OF(PCLMULQDQ, sse_bind_imm, avx_bind_imm,
			pclmulqdq_kernels){ZYDIS_MNEMONIC_PTEST, exec_ptest, NULL, 0},
    {0},
};
