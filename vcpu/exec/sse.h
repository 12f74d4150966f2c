/* What the sse*.c files share: vector kernels and the handlers that feed them. */
#ifndef QUIRE_VCPU_EXEC_SSE_H
#define QUIRE_VCPU_EXEC_SSE_H

#include "vcpu/exec/operand.h"
#include "vcpu/inside.h"

/*
 * SSE instructions execute as themselves: a kernel is the very instruction on two registers of the
 * host, so results, NaNs and flags are the processor's. The C calling convention passes the two in
 * XMM0 and XMM1 and returns XMM0, which also lets a kernel be a line of assembly.
 */
typedef long long vec __attribute__((vector_size(16), may_alias));
typedef vec (*vec_fn)(vec dst, vec src);

#define VEC_KERNEL(name)                                              \
	static vec name##_kernel(vec dst, vec src)                    \
	{                                                             \
		asm volatile(#name " %1, %0" : "+x"(dst) : "x"(src)); \
		return dst;                                           \
	}

/*
 * Kernels of an instruction with an immediate: 256 of them, 8 bytes apart. An instruction is at
 * most 6 bytes long, its return 1.
 */
#define VEC_KERNELS_IMM(name, operands)                        \
	extern const uint8_t name##_kernels[256][8];           \
	asm(".pushsection .text\n"                             \
	    ".hidden " #name "_kernels\n"                      \
	    ".balign 16\n" #name "_kernels:\n"                 \
	    ".set kernel_imm, 0\n"                             \
	    ".rept 256\n"                                      \
	    ".balign 8\n" #name " $kernel_imm, " operands "\n" \
	    "ret\n"                                            \
	    ".set kernel_imm, kernel_imm + 1\n"                \
	    ".endr\n"                                          \
	    ".popsection\n");

#define KERNEL_ADDRESS(object) ((uint64_t)(uintptr_t)(object))

enum step sse_refuse(struct cpu *cpu);
enum step avx_refuse(struct cpu *cpu);

/* May instructions with a VEX prefix run now? Else #UD or #NM. CR0.EM is nothing to them. */
static inline enum step avx_check(struct cpu *cpu)
{
	if (likely(cpu_is_protected(cpu) && !(cpu->s.cr0 & CR0_TS) && (cpu->s.cr4 & CR4_OSXSAVE) &&
		   (cpu->s.xcr0 & XSTATE_YMM) == XSTATE_YMM))
		return STEP_NEXT;
	return avx_refuse(cpu);
}

/* May the SSE instruction @op, or its form with a VEX prefix, run now? Else #UD or #NM. */
static inline enum step sse_check(struct cpu *cpu, const struct op *op)
{
	if (op->vector_bytes)
		return avx_check(cpu);
	if (likely(!(cpu->s.cr0 & (CR0_EM | CR0_TS)) && (cpu->s.cr4 & CR4_OSFXSR)))
		return STEP_NEXT;
	return sse_refuse(cpu);
}

static inline vec *sse_register(struct cpu *cpu, unsigned int offset)
{
	return reg_vector(cpu, offset);
}

/* The upper half of the YMM register whose lower one is at @offset. */
static inline vec *avx_high(struct cpu *cpu, unsigned int offset)
{
	return reg_vector(cpu, offset + (unsigned int)(offsetof(struct cpu, s.ymm_high) -
						       offsetof(struct cpu, s.xmm)));
}

/* Operand 0 becomes @value. With a VEX prefix the upper half goes, else it stays. */
static inline void sse_set(struct cpu *cpu, const struct op *op, vec value)
{
	*sse_register(cpu, op->dst) = value;
	if (op->vector_bytes)
		*avx_high(cpu, op->dst) = (vec){0, 0};
}

/* Read the memory operand into the low bytes of @value, the others 0. No alignment asked. */
enum step sse_load_any(struct cpu *cpu, const struct op *op, vec *value);
/* The same; #GP where 16 bytes are not aligned, unless there is a VEX prefix. */
enum step sse_load(struct cpu *cpu, const struct op *op, vec *value);
/* Write the low mem_size bytes of @value. */
enum step sse_store_any(struct cpu *cpu, const struct op *op, const vec *value);
enum step sse_store(struct cpu *cpu, const struct op *op, const vec *value);

/* The vector operand @which (0 .. 2), from its register or aligned memory. */
static inline enum step sse_operand(struct cpu *cpu, const struct op *op, unsigned int which,
				    vec *value)
{
	const uint16_t *reg = &op->dst;

	if (op->kind[which] == OPERAND_MEM)
		return sse_load(cpu, op, value);
	*value = *sse_register(cpu, reg[which]);
	return STEP_NEXT;
}

/* What most instructions begin with: may they run, and their operand 1. */
static inline enum step sse_source(struct cpu *cpu, const struct op *op, vec *src)
{
	enum step step = sse_check(cpu, op);

	return unlikely(step) ? step : sse_operand(cpu, op, 1, src);
}

/* Does the instruction name an MMX register? mmx.c has those forms. */
int sse_is_mmx(const struct decoded *decoded);

/* MASKMOVDQU and MASKMOVQ: the hidden memory operand of @size_bytes at rDI. */
void sse_bind_at_rdi(struct op *op, const struct decoded *decoded, unsigned int size_bytes);

/* dst = kernel(dst, src): op->aux is the kernel, or the table of them before binding. */
op_fn sse_bind_binary(struct op *op, const struct decoded *decoded);
op_fn sse_bind_imm(struct op *op, const struct decoded *decoded);

/* A kernel's address, and its row for the instruction and for the form with a VEX prefix. */
#define ROWS_OF(mnemonic, bind, avx_bind, kernel)                        \
	{ZYDIS_MNEMONIC_##mnemonic, NULL, bind, KERNEL_ADDRESS(kernel)}, \
	    {ZYDIS_MNEMONIC_V##mnemonic, NULL, avx_bind, KERNEL_ADDRESS(kernel)},

/* Forms with a VEX prefix, by the kernels of SSE; op->aux as above. See avx.c. */
op_fn avx_bind_binary(struct op *op, const struct decoded *decoded);
op_fn avx_bind_imm(struct op *op, const struct decoded *decoded);
/* Each half of the source becomes a lane of the result, and the other way round. */
op_fn avx_bind_widen(struct op *op, const struct decoded *decoded);
/* The same for floating point, under the guest's MXCSR. */
op_fn avx_bind_float(struct op *op, const struct decoded *decoded);
op_fn avx_bind_float_imm(struct op *op, const struct decoded *decoded);
op_fn avx_bind_float_widen(struct op *op, const struct decoded *decoded);
op_fn avx_bind_float_narrow(struct op *op, const struct decoded *decoded);

/* MXCSR while a kernel of floating point arithmetic runs. */
struct sse_float_scope {
	uint32_t host;
};
void sse_float_enter(const struct cpu *cpu, struct sse_float_scope *scope);
/* Collects the exception flags; STEP_ABORT with #XM when one is unmasked: no result then. */
enum step sse_float_leave(struct cpu *cpu, const struct sse_float_scope *scope);

#endif
