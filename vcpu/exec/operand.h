/* Registers and memory operands of an instruction. */
#ifndef QUIRE_VCPU_EXEC_OPERAND_H
#define QUIRE_VCPU_EXEC_OPERAND_H

#include "vcpu/inside.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"

#define REG_AT(cpu, offset, type) (*(type *)((char *)(cpu) + (offset)))

/* Parts of a register of 64 bits: the compiler must see that they are stores to the whole. */
typedef uint8_t __attribute__((may_alias)) reg8;
typedef uint16_t __attribute__((may_alias)) reg16;
typedef uint32_t __attribute__((may_alias)) reg32;

static inline uint64_t reg_get(const struct cpu *cpu, unsigned int offset, unsigned int size_bytes)
{
	const char *at = (const char *)cpu + offset;

	switch (size_bytes) {
	case 1:
		return *(const reg8 *)at;
	case 2:
		return *(const reg16 *)at;
	case 4:
		return *(const reg32 *)at;
	default:
		return *(const uint64_t *)at;
	}
}

/* Writing 32 bits clears the upper half, as the processor does. */
static inline void reg_set(struct cpu *cpu, unsigned int offset, unsigned int size_bytes,
			   uint64_t value)
{
	char *at = (char *)cpu + offset;

	switch (size_bytes) {
	case 1:
		*(reg8 *)at = value;
		break;
	case 2:
		*(reg16 *)at = value;
		break;
	case 4:
		*(uint64_t *)at = (uint32_t)value;
		break;
	default:
		*(uint64_t *)at = value;
		break;
	}
}

/* An XMM register (16 bytes) or an MMX register (8 bytes) by the offset in struct op. */
static inline void *reg_vector(struct cpu *cpu, unsigned int offset)
{
	return (char *)cpu + offset;
}

static inline uint64_t op_next_rip(const struct cpu *cpu, const struct op *op)
{
	uint64_t next = cpu->s.rip + op->length;

	return cpu->code_bytes == 8 ? next : (uint32_t)next;
}

/* The effective address without the segment, cut to the address size. */
static inline uint64_t op_effective(const struct cpu *cpu, const struct op *op)
{
	uint64_t at = *(const uint64_t *)((const char *)cpu + op->base) +
		      (*(const uint64_t *)((const char *)cpu + op->index) << op->scale_shift) +
		      (uint64_t)op->disp;

	if (op->address_bytes == 8)
		return at;
	return op->address_bytes == 4 ? (uint32_t)at : (uint16_t)at;
}

/* The linear address of the memory operand, which has @size_bytes. */
static inline enum step op_linear_sized(struct cpu *cpu, const struct op *op,
					unsigned int size_bytes, uint64_t *linear)
{
	uint64_t at = op_effective(cpu, op);

	if (unlikely(op->flags & OP_SEGMENTED)) {
		enum step step =
		    op->flags & OP_STORES ? segment_check_store(cpu, op->seg) : STEP_NEXT;

		return step ? step : segment_check(cpu, op->seg, at, size_bytes, linear);
	}
	*linear = at + *(const uint64_t *)((const char *)cpu + op->seg_base);
	return STEP_NEXT;
}

/* One of a size that op->mem_size can say, or of which one byte counts (INVLPG, CLFLUSH). */
static inline enum step op_linear(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	return op_linear_sized(cpu, op, op->mem_size ? op->mem_size : 1, linear);
}

/*
 * The linear address of @size_bytes that lie @delta bytes into the memory operand: one of the parts
 * that the processor reads or writes by themselves. An address may wrap between them.
 */
static inline enum step op_linear_part(struct cpu *cpu, const struct op *op, uint64_t delta,
				       unsigned int size_bytes, uint64_t *linear)
{
	uint64_t at = op_effective(cpu, op) + delta;

	if (op->address_bytes != 8)
		at = op->address_bytes == 4 ? (uint32_t)at : (uint16_t)at;
	if (op->flags & OP_SEGMENTED) {
		enum step step =
		    op->flags & OP_STORES ? segment_check_store(cpu, op->seg) : STEP_NEXT;

		return step ? step : segment_check(cpu, op->seg, at, size_bytes, linear);
	}
	*linear = at + *(const uint64_t *)((const char *)cpu + op->seg_base);
	return STEP_NEXT;
}

static inline enum step op_load_part(struct cpu *cpu, const struct op *op, uint64_t delta,
				     unsigned int size_bytes, uint64_t *value)
{
	uint64_t linear;
	enum step step = op_linear_part(cpu, op, delta, size_bytes, &linear);

	return step ? step : mem_load(cpu, linear, size_bytes, value);
}

/* Operands: @which is 0 .. 2; sizes 1, 2, 4, 8. */

static inline enum step op_load(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				uint64_t *value)
{
	uint64_t linear;
	enum step step = op_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	return mem_load(cpu, linear, size_bytes, value);
}

static inline enum step op_store(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				 uint64_t value)
{
	uint64_t linear;
	enum step step = op_linear(cpu, op, &linear);

	if (unlikely(step))
		return step;
	return mem_store(cpu, linear, size_bytes, value);
}

/* Operand @which as a value: register, memory or immediate. */
static inline enum step op_read(struct cpu *cpu, const struct op *op, unsigned int which,
				unsigned int size_bytes, uint64_t *value)
{
	const uint16_t *reg = &op->dst;

	switch (op->kind[which]) {
	case OPERAND_REG:
		*value = reg_get(cpu, reg[which], size_bytes);
		return STEP_NEXT;
	case OPERAND_MEM:
		return op_load(cpu, op, size_bytes, value);
	default:
		*value = op->imm;
		return STEP_NEXT;
	}
}

/* Write operand 0: register or memory. */
static inline enum step op_write(struct cpu *cpu, const struct op *op, unsigned int size_bytes,
				 uint64_t value)
{
	if (op->kind[0] == OPERAND_MEM)
		return op_store(cpu, op, size_bytes, value);
	reg_set(cpu, op->dst, size_bytes, value);
	return STEP_NEXT;
}

#endif
