/* AVX: comparisons with all predicates; FMA; F16C. By the machine's own instruction, lane by lane.
 */
#include "vcpu/exec/avx.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"

/* Kernels of an instruction with an immediate of which @bits count, 8 bytes apart. */
#define VEX_KERNELS_IMM(name, bits, operands)                         \
	extern const uint8_t name##_kernels[1 << (bits)][8];          \
	asm(".pushsection .text\n"                                    \
	    ".hidden " #name "_kernels\n"                             \
	    ".balign 16\n" #name "_kernels:\n"                        \
	    ".set kernel_imm, 0\n"                                    \
	    ".rept 1 << " #bits "\n"                                  \
	    ".balign 8\n" #name " $kernel_imm, " operands ", %xmm0\n" \
	    "ret\n"                                                   \
	    ".set kernel_imm, kernel_imm + 1\n"                       \
	    ".endr\n"                                                 \
	    ".popsection\n");

VEX_KERNELS_IMM(vcmpps, 5, "%xmm1, %xmm0")
VEX_KERNELS_IMM(vcmppd, 5, "%xmm1, %xmm0")
VEX_KERNELS_IMM(vcmpss, 5, "%xmm1, %xmm0")
VEX_KERNELS_IMM(vcmpsd, 5, "%xmm1, %xmm0")
VEX_KERNELS_IMM(vcvtps2ph, 3, "%xmm0")

static op_fn bind_compare(struct op *op, const struct decoded *decoded)
{
	op->imm &= 31;
	return avx_bind_float_imm(op, decoded);
}

/* FMA: which operands are multiplied is a part of the name, and which NaN wins follows from it. */

typedef vec (*fma_fn)(vec first, vec second, vec third);

#define FMA_KERNEL(name, mnemonic)                                                         \
	static vec name##_kernel(vec first, vec second, vec third)                         \
	{                                                                                  \
		asm volatile(#name " %2, %1, %0" : "+x"(first) : "x"(second), "x"(third)); \
		return first;                                                              \
	}

/* clang-format off */
#define FMA_ORDERS(X, name, type, NAME, TYPE)             \
	X(v##name##132##type, V##NAME##132##TYPE)         \
	X(v##name##213##type, V##NAME##213##TYPE)         \
	X(v##name##231##type, V##NAME##231##TYPE)
#define FMA_PACKED(X, name, NAME)                         \
	FMA_ORDERS(X, name, ps, NAME, PS) FMA_ORDERS(X, name, pd, NAME, PD)
#define FMA_ALL(X, name, NAME)                            \
	FMA_PACKED(X, name, NAME)                         \
	FMA_ORDERS(X, name, ss, NAME, SS) FMA_ORDERS(X, name, sd, NAME, SD)
#define FMA_INSTRUCTIONS(X)                               \
	FMA_ALL(X, fmadd, FMADD) FMA_ALL(X, fmsub, FMSUB) \
	FMA_ALL(X, fnmadd, FNMADD) FMA_ALL(X, fnmsub, FNMSUB) \
	FMA_PACKED(X, fmaddsub, FMADDSUB) FMA_PACKED(X, fmsubadd, FMSUBADD)
/* clang-format on */

FMA_INSTRUCTIONS(FMA_KERNEL)

static enum step exec_fma(struct cpu *cpu, const struct op *op)
{
	fma_fn kernel = (fma_fn)(uintptr_t)op->aux;
	union avx_value first, second, third;
	enum step step = avx_sources(cpu, op, &second, &third);
	struct sse_float_scope scope;

	if (unlikely(step))
		return step;
	avx_get(cpu, op->dst, &first);
	sse_float_enter(cpu, &scope);
	first.lane[0] = kernel(first.lane[0], second.lane[0], third.lane[0]);
	if (op->vector_bytes == 32)
		first.lane[1] = kernel(first.lane[1], second.lane[1], third.lane[1]);
	step = sse_float_leave(cpu, &scope);
	if (likely(!step))
		avx_set(cpu, op, &first);
	return step;
}

/* F16C: halves in the low 64 bits of a lane become singles, and the other way round. */

static vec vcvtph2ps_kernel(vec unused, vec src)
{
	asm volatile("vcvtph2ps %1, %0" : "=x"(src) : "x"(src));
	return src;
}

static enum step exec_to_half(struct cpu *cpu, const struct op *op)
{
	vec_fn kernel = (vec_fn)(uintptr_t)(op->aux + (op->imm & 7) * 8);
	enum step step = avx_check(cpu);
	struct sse_float_scope scope;
	union avx_value value;
	uint64_t linear;

	if (unlikely(step))
		return step;
	avx_get(cpu, op->src, &value);
	sse_float_enter(cpu, &scope);
	value.lane[0] = kernel(value.lane[0], value.lane[0]);
	if (op->vector_bytes == 32)
		value.lane[0][1] = kernel(value.lane[1], value.lane[1])[0];
	step = sse_float_leave(cpu, &scope);
	if (unlikely(step))
		return step;
	if (op->kind[0] != OPERAND_MEM) {
		avx_set_low(cpu, op, value.lane[0]);
		return STEP_NEXT;
	}
	/* A fault of the store comes when MXCSR has its flags, which a repetition sets again. */
	step = op_linear(cpu, op, &linear);
	return step ? step : mem_write(cpu, linear, &value, op->mem_size);
}

static op_fn bind_from_half(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	return avx_bind_float_widen(op, decoded);
}

static op_fn bind_to_half(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	return exec_to_half;
}

#define FMA_ROW(name, mnemonic) \
	{ZYDIS_MNEMONIC_##mnemonic, exec_fma, NULL, KERNEL_ADDRESS(name##_kernel)},

const struct insn_desc exec_avx_float_table[] = {
    /* clang-format off */
    FMA_INSTRUCTIONS(FMA_ROW)
    /* clang-format on */
    {ZYDIS_MNEMONIC_VCMPPS, NULL, bind_compare, KERNEL_ADDRESS(vcmpps_kernels)},
    {ZYDIS_MNEMONIC_VCMPPD, NULL, bind_compare, KERNEL_ADDRESS(vcmppd_kernels)},
    {ZYDIS_MNEMONIC_VCMPSS, NULL, bind_compare, KERNEL_ADDRESS(vcmpss_kernels)},
    {ZYDIS_MNEMONIC_VCMPSD, NULL, bind_compare, KERNEL_ADDRESS(vcmpsd_kernels)},
    {ZYDIS_MNEMONIC_VCVTPH2PS, NULL, bind_from_half, KERNEL_ADDRESS(vcvtph2ps_kernel)},
    {ZYDIS_MNEMONIC_VCVTPS2PH, NULL, bind_to_half, KERNEL_ADDRESS(vcvtps2ph_kernels)},
    {0},
};
