/* SSE: floating point arithmetic, comparisons and conversions, under the guest's MXCSR. */
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/sse.h"
#include "vcpu/run/raise.h"

#include <xmmintrin.h>

#define MXCSR_FLAGS 0x3fu
#define MXCSR_PRECOMPUTATION 0x07u /* invalid, denormal, zero divide: found before a result is */
#define MXCSR_MASKS 0x1f80u
#define MXCSR_MASKS_SHIFT 7

/*
 * The kernel runs with all exceptions masked and the flags clear. One difference remains to a
 * processor with overflow or underflow unmasked: that one judges the result before it is brought
 * into range, so a tiny exact result raises underflow there, and "inexact" may not be set.
 */
void sse_float_enter(const struct cpu *cpu, struct sse_float_scope *scope)
{
	scope->host = _mm_getcsr();
	_mm_setcsr((cpu->s.mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS);
	asm volatile("" : : : "memory");
}

enum step sse_float_leave(struct cpu *cpu, const struct sse_float_scope *scope)
{
	uint32_t enabled = ~(cpu->s.mxcsr >> MXCSR_MASKS_SHIFT) & MXCSR_FLAGS;
	uint32_t flags;

	asm volatile("" : : : "memory");
	flags = _mm_getcsr() & MXCSR_FLAGS;
	_mm_setcsr(scope->host);
	if (flags & enabled & MXCSR_PRECOMPUTATION)
		flags &= MXCSR_PRECOMPUTATION;
	cpu->s.mxcsr |= flags;
	if (likely(!(flags & enabled)))
		return STEP_NEXT;
	return cpu_raise(cpu, cpu->s.cr4 & CR4_OSXMMEXCPT ? VECTOR_XM : VECTOR_UD);
}

/* clang-format off */
#define BINARY_INSTRUCTIONS(X)                                                      \
	X(addps, ADDPS) X(addpd, ADDPD) X(addss, ADDSS) X(addsd, ADDSD)             \
	X(subps, SUBPS) X(subpd, SUBPD) X(subss, SUBSS) X(subsd, SUBSD)             \
	X(mulps, MULPS) X(mulpd, MULPD) X(mulss, MULSS) X(mulsd, MULSD)             \
	X(divps, DIVPS) X(divpd, DIVPD) X(divss, DIVSS) X(divsd, DIVSD)             \
	X(minps, MINPS) X(minpd, MINPD) X(minss, MINSS) X(minsd, MINSD)             \
	X(maxps, MAXPS) X(maxpd, MAXPD) X(maxss, MAXSS) X(maxsd, MAXSD)             \
	X(sqrtps, SQRTPS) X(sqrtpd, SQRTPD) X(sqrtss, SQRTSS) X(sqrtsd, SQRTSD)     \
	X(rcpps, RCPPS) X(rcpss, RCPSS) X(rsqrtps, RSQRTPS) X(rsqrtss, RSQRTSS)     \
	X(haddps, HADDPS) X(haddpd, HADDPD) X(hsubps, HSUBPS) X(hsubpd, HSUBPD)     \
	X(addsubps, ADDSUBPS) X(addsubpd, ADDSUBPD) X(cvtdq2ps, CVTDQ2PS)           \
	X(cvtps2dq, CVTPS2DQ) X(cvttps2dq, CVTTPS2DQ) X(cvtss2sd, CVTSS2SD)         \
	X(cvtsd2ss, CVTSD2SS)
/* The result's elements have twice or half the width. */
#define WIDEN_INSTRUCTIONS(X) X(cvtdq2pd, CVTDQ2PD) X(cvtps2pd, CVTPS2PD)
#define NARROW_INSTRUCTIONS(X)                                                      \
	X(cvtpd2dq, CVTPD2DQ) X(cvttpd2dq, CVTTPD2DQ) X(cvtpd2ps, CVTPD2PS)
/* clang-format on */

/* clang-format off */
#define IMM_INSTRUCTIONS(X)                                                         \
	X(roundps, ROUNDPS) X(roundpd, ROUNDPD) X(roundss, ROUNDSS)                 \
	X(roundsd, ROUNDSD) X(dpps, DPPS) X(dppd, DPPD)
/* With a VEX prefix these know more predicates: see avx_float.c. */
#define COMPARE_INSTRUCTIONS(X) X(cmpps, CMPPS) X(cmppd, CMPPD) X(cmpss, CMPSS)
/* clang-format on */

#define KERNEL_OF(name, mnemonic) VEC_KERNEL(name)
BINARY_INSTRUCTIONS(KERNEL_OF)
WIDEN_INSTRUCTIONS(KERNEL_OF)
NARROW_INSTRUCTIONS(KERNEL_OF)
#undef KERNEL_OF
#define KERNELS_OF(name, mnemonic) VEC_KERNELS_IMM(name, "%xmm1, %xmm0")
IMM_INSTRUCTIONS(KERNELS_OF)
COMPARE_INSTRUCTIONS(KERNELS_OF)
VEC_KERNELS_IMM(cmpsd, "%xmm1, %xmm0")
#undef KERNELS_OF

static enum step exec_binary(struct cpu *cpu, const struct op *op)
{
	vec_fn kernel = (vec_fn)(uintptr_t)op->aux;
	vec src, result;
	enum step step = sse_source(cpu, op, &src);
	struct sse_float_scope scope;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	result = kernel(*sse_register(cpu, op->dst), src);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		*sse_register(cpu, op->dst) = result;
	return step;
}

static op_fn bind_binary(struct op *op, const struct decoded *decoded)
{
	return sse_is_mmx(decoded) ? NULL : exec_binary;
}

static op_fn bind_imm(struct op *op, const struct decoded *decoded)
{
	op->aux += (op->imm & 0xff) * 8;
	return exec_binary;
}

static op_fn bind_cmpsd(struct op *op, const struct decoded *decoded)
{
	/* CMPSD without operands is the string instruction: another table's. */
	if (decoded->insn.meta.category == ZYDIS_CATEGORY_STRINGOP)
		return NULL;
	return bind_imm(op, decoded);
}

/* Comparisons that set RFLAGS. */

typedef uint64_t (*compare_fn)(vec dst, vec src);

#define COMPARE_KERNEL(name)                                                         \
	static uint64_t name##_kernel(vec dst, vec src)                              \
	{                                                                            \
		unsigned char zf, pf, cf;                                            \
                                                                                     \
		asm volatile(#name " %4, %3"                                         \
			     : "=@ccz"(zf), "=@ccp"(pf), "=@ccc"(cf)                 \
			     : "x"(dst), "x"(src));                                  \
		return (zf ? FLAG_ZF : 0) | (pf ? FLAG_PF : 0) | (cf ? FLAG_CF : 0); \
	}

COMPARE_KERNEL(comiss)
COMPARE_KERNEL(comisd)
COMPARE_KERNEL(ucomiss)
COMPARE_KERNEL(ucomisd)

static enum step exec_compare(struct cpu *cpu, const struct op *op)
{
	compare_fn kernel = (compare_fn)(uintptr_t)op->aux;
	vec src;
	enum step step = sse_source(cpu, op, &src);
	struct sse_float_scope scope;
	uint64_t flags;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	flags = kernel(*sse_register(cpu, op->dst), src);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		flags_set_arithmetic(cpu, flags);
	return step;
}

/* Conversions between a general register (or memory) and the low element. */

typedef vec (*from_gpr_fn)(vec dst, uint64_t src);
typedef uint64_t (*to_gpr_fn)(vec src);

#define FROM_GPR_KERNEL(name, mnemonic, modifier)                                    \
	static vec name##_kernel(vec dst, uint64_t src)                              \
	{                                                                            \
		asm volatile(mnemonic " %" modifier "1, %0" : "+x"(dst) : "r"(src)); \
		return dst;                                                          \
	}
#define TO_GPR_KERNEL(name, mnemonic, modifier)                                        \
	static uint64_t name##_kernel(vec src)                                         \
	{                                                                              \
		uint64_t value;                                                        \
                                                                                       \
		asm volatile(mnemonic " %1, %" modifier "0" : "=r"(value) : "x"(src)); \
		return value;                                                          \
	}

FROM_GPR_KERNEL(cvtsi2ss_32, "cvtsi2ssl", "k")
FROM_GPR_KERNEL(cvtsi2ss_64, "cvtsi2ssq", "q")
FROM_GPR_KERNEL(cvtsi2sd_32, "cvtsi2sdl", "k")
FROM_GPR_KERNEL(cvtsi2sd_64, "cvtsi2sdq", "q")
TO_GPR_KERNEL(cvtss2si_32, "cvtss2si", "k")
TO_GPR_KERNEL(cvtss2si_64, "cvtss2si", "q")
TO_GPR_KERNEL(cvttss2si_32, "cvttss2si", "k")
TO_GPR_KERNEL(cvttss2si_64, "cvttss2si", "q")
TO_GPR_KERNEL(cvtsd2si_32, "cvtsd2si", "k")
TO_GPR_KERNEL(cvtsd2si_64, "cvtsd2si", "q")
TO_GPR_KERNEL(cvttsd2si_32, "cvttsd2si", "k")
TO_GPR_KERNEL(cvttsd2si_64, "cvttsd2si", "q")

/* The two widths of a conversion: op->aux points to one of these before binding. */
struct conversion {
	uint64_t kernel32, kernel64;
};

#define CONVERSION(name)                                     \
	static const struct conversion name##_conversion = { \
	    KERNEL_ADDRESS(name##_32_kernel),                \
	    KERNEL_ADDRESS(name##_64_kernel),                \
	};

CONVERSION(cvtsi2ss)
CONVERSION(cvtsi2sd)
CONVERSION(cvtss2si)
CONVERSION(cvttss2si)
CONVERSION(cvtsd2si)
CONVERSION(cvttsd2si)

static enum step exec_from_gpr(struct cpu *cpu, const struct op *op)
{
	from_gpr_fn kernel = (from_gpr_fn)(uintptr_t)op->aux;
	enum step step = sse_check(cpu, op);
	struct sse_float_scope scope;
	uint64_t src;
	vec result;

	if (unlikely(step))
		return step;
	step = op_read(cpu, op, 1, op->size, &src);
	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	result = kernel(*sse_register(cpu, op->dst), src);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		*sse_register(cpu, op->dst) = result;
	return step;
}

/* The form of three operands. */
static enum step exec_vex_from_gpr(struct cpu *cpu, const struct op *op)
{
	from_gpr_fn kernel = (from_gpr_fn)(uintptr_t)op->aux;
	enum step step = sse_check(cpu, op);
	struct sse_float_scope scope;
	uint64_t src;
	vec result;

	if (likely(!step))
		step = op_read(cpu, op, 2, op->size, &src);
	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	result = kernel(*sse_register(cpu, op->src), src);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		sse_set(cpu, op, result);
	return step;
}

static enum step exec_to_gpr(struct cpu *cpu, const struct op *op)
{
	to_gpr_fn kernel = (to_gpr_fn)(uintptr_t)op->aux;
	vec src;
	enum step step = sse_source(cpu, op, &src);
	struct sse_float_scope scope;
	uint64_t result;

	if (unlikely(step))
		return step;
	sse_float_enter(cpu, &scope);
	result = kernel(src);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		reg_set(cpu, op->dst, op->size, result);
	return step;
}

static void conversion_choose(struct op *op, unsigned int size_bits)
{
	const struct conversion *conversion = (const struct conversion *)(uintptr_t)op->aux;

	op->size = size_bits == 64 ? 8 : 4;
	op->aux = size_bits == 64 ? conversion->kernel64 : conversion->kernel32;
}

static op_fn bind_from_gpr(struct op *op, const struct decoded *decoded)
{
	conversion_choose(op, decoded->operand[1].size);
	return exec_from_gpr;
}

static op_fn bind_vex_from_gpr(struct op *op, const struct decoded *decoded)
{
	conversion_choose(op, decoded->operand[2].size);
	return exec_vex_from_gpr;
}

static op_fn bind_to_gpr(struct op *op, const struct decoded *decoded)
{
	conversion_choose(op, decoded->operand[0].size);
	return exec_to_gpr;
}

static op_fn bind_compare(struct op *op, const struct decoded *decoded)
{
	return exec_compare;
}

#define ROW_OF(name, mnemonic) ROWS_OF(mnemonic, bind_binary, avx_bind_float, name##_kernel)
#define WIDEN_ROW_OF(name, mnemonic) \
	ROWS_OF(mnemonic, bind_binary, avx_bind_float_widen, name##_kernel)
#define NARROW_ROW_OF(name, mnemonic) \
	ROWS_OF(mnemonic, bind_binary, avx_bind_float_narrow, name##_kernel)
#define IMM_ROW_OF(name, mnemonic) ROWS_OF(mnemonic, bind_imm, avx_bind_float_imm, name##_kernels)
#define COMPARE_ROW_OF(name, mnemonic) \
	{ZYDIS_MNEMONIC_##mnemonic, NULL, bind_imm, KERNEL_ADDRESS(name##_kernels)},

const struct insn_desc exec_sse_float_table[] = {
    /* clang-format off */
    BINARY_INSTRUCTIONS(ROW_OF)
    WIDEN_INSTRUCTIONS(WIDEN_ROW_OF)
    NARROW_INSTRUCTIONS(NARROW_ROW_OF)
    IMM_INSTRUCTIONS(IMM_ROW_OF)
    COMPARE_INSTRUCTIONS(COMPARE_ROW_OF)
    /* clang-format on */
    {ZYDIS_MNEMONIC_CMPSD, NULL, bind_cmpsd, KERNEL_ADDRESS(cmpsd_kernels)},
    ROWS_OF(COMISS, bind_compare, bind_compare, comiss_kernel) ROWS_OF(COMISD, bind_compare,
								       bind_compare, comisd_kernel)
	ROWS_OF(UCOMISS, bind_compare, bind_compare, ucomiss_kernel)
	    ROWS_OF(UCOMISD, bind_compare, bind_compare, ucomisd_kernel)
		ROWS_OF(CVTSI2SS, bind_from_gpr, bind_vex_from_gpr, &cvtsi2ss_conversion)
		    ROWS_OF(CVTSI2SD, bind_from_gpr, bind_vex_from_gpr, &cvtsi2sd_conversion)
			ROWS_OF(CVTSS2SI, bind_to_gpr, bind_to_gpr, &cvtss2si_conversion)
			    ROWS_OF(CVTTSS2SI, bind_to_gpr, bind_to_gpr, &cvttss2si_conversion)
				ROWS_OF(CVTSD2SI, bind_to_gpr, bind_to_gpr, &cvtsd2si_conversion)
				    ROWS_OF(CVTTSD2SI, bind_to_gpr, bind_to_gpr,
					    &cvttsd2si_conversion){0},
};
