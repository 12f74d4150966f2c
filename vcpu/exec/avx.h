/* What the avx*.c files share: YMM registers as values, and operands with a VEX prefix. */
#ifndef QUIRE_VCPU_EXEC_AVX_H
#define QUIRE_VCPU_EXEC_AVX_H

#include "vcpu/exec/sse.h"

/* A YMM register or memory operand: two lanes, each what an XMM register holds. */
union avx_value {
	vec lane[2];
	uint8_t byte[32];
	uint16_t word[16];
	uint32_t dword[8];
	uint64_t qword[4];
};

static inline void avx_get(struct cpu *cpu, unsigned int offset, union avx_value *value)
{
	value->lane[0] = *sse_register(cpu, offset);
	value->lane[1] = *avx_high(cpu, offset);
}

/* Operand 0 becomes @value, of which op->vector_bytes count: the rest becomes 0. */
static inline void avx_set(struct cpu *cpu, const struct op *op, const union avx_value *value)
{
	*sse_register(cpu, op->dst) = value->lane[0];
	*avx_high(cpu, op->dst) = op->vector_bytes == 32 ? value->lane[1] : (vec){0, 0};
}

/* The same where the result has half the width of the sources. */
static inline void avx_set_low(struct cpu *cpu, const struct op *op, vec value)
{
	*sse_register(cpu, op->dst) = value;
	*avx_high(cpu, op->dst) = (vec){0, 0};
}

/* Operand @which (0 .. 2) from its register, or from memory: op->mem_size bytes, the rest is 0. */
enum step avx_operand(struct cpu *cpu, const struct op *op, unsigned int which,
		      union avx_value *value);

/*
 * What most instructions begin with: may they run, and their sources. @second is the last operand
 * that is no immediate; @first is operand 1, or the same as @second where there are two operands.
 */
enum step avx_sources(struct cpu *cpu, const struct op *op, union avx_value *first,
		      union avx_value *second);

#endif
