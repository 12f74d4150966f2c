/* AVX and AVX2: moves under a mask and gathers, of whose elements each may fault by itself. */
#include "vcpu/exec/avx.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"

/* Is the sign of element @at of @size_bytes set? */
static int is_selected(const union avx_value *mask, unsigned int at, unsigned int size_bytes)
{
	return mask->byte[(at + 1) * size_bytes - 1] >> 7;
}

/*
 * Masked moves: op->aux is the size of an element. One that the mask leaves out is no access to
 * memory. The operands are register, mask, memory, or memory, mask, register.
 */

static enum step exec_masked_load(struct cpu *cpu, const struct op *op)
{
	unsigned int size_bytes = (unsigned int)op->aux, count = op->vector_bytes / size_bytes;
	union avx_value mask, value = {{{0, 0}, {0, 0}}};
	enum step step = avx_check(cpu);

	avx_get(cpu, op->src, &mask);
	for (unsigned int i = 0; !step && i < count; i++) {
		uint64_t element;

		if (!is_selected(&mask, i, size_bytes))
			continue;
		step = op_load_part(cpu, op, i * size_bytes, size_bytes, &element);
		if (!step)
			memcpy(&value.byte[i * size_bytes], &element, size_bytes);
	}
	if (likely(!step))
		avx_set(cpu, op, &value);
	return step;
}

static enum step exec_masked_store(struct cpu *cpu, const struct op *op)
{
	unsigned int size_bytes = (unsigned int)op->aux, count = op->vector_bytes / size_bytes;
	union avx_value mask, value;
	enum step step = avx_check(cpu);
	uint64_t linear;

	avx_get(cpu, op->src, &mask);
	avx_get(cpu, op->src2, &value);
	/* Look before the first element is written, so that a fault finds nothing changed. */
	for (unsigned int i = 0; !step && i < count; i++) {
		if (!is_selected(&mask, i, size_bytes))
			continue;
		step = op_linear_part(cpu, op, i * size_bytes, size_bytes, &linear);
		if (!step)
			step = mem_probe_write(cpu, linear, size_bytes);
	}
	for (unsigned int i = 0; !step && i < count; i++) {
		uint64_t element = 0;

		if (!is_selected(&mask, i, size_bytes))
			continue;
		memcpy(&element, &value.byte[i * size_bytes], size_bytes);
		step = op_linear_part(cpu, op, i * size_bytes, size_bytes, &linear);
		if (!step)
			step = mem_store(cpu, linear, size_bytes, element);
	}
	return step;
}

static op_fn bind_masked(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	return op->kind[0] == OPERAND_MEM ? exec_masked_store : exec_masked_load;
}

/*
 * Gathers: element i of the result comes from where index i of the vector register op->imm points,
 * if the mask, operand 2, selects it. The mask is cleared on the way, so that after a fault the
 * instruction goes on where it was.
 */
struct gather {
	unsigned int element_bytes, index_bytes, count;
	union avx_value result, mask, index;
};

static void gather_prepare(struct cpu *cpu, const struct op *op, struct gather *gather)
{
	unsigned int element_bytes = op->aux & 0xff, index_bytes = (unsigned int)op->aux >> 8;
	unsigned int wider = element_bytes > index_bytes ? element_bytes : index_bytes;

	gather->element_bytes = element_bytes;
	gather->index_bytes = index_bytes;
	gather->count = op->vector_bytes / wider;
	avx_get(cpu, op->dst, &gather->result);
	avx_get(cpu, op->src2, &gather->mask);
	avx_get(cpu, (unsigned int)op->imm, &gather->index);
	/* Only signs count, and a fault leaves nothing else of those that were not done. */
	for (unsigned int i = 0; i < op->vector_bytes / element_bytes; i++) {
		int selected = is_selected(&gather->mask, i, element_bytes);

		memset(&gather->mask.byte[i * element_bytes], selected ? 0xff : 0, element_bytes);
	}
	if (op->vector_bytes == 16)
		gather->mask.lane[1] = (vec){0, 0};
}

static enum step gather_one(struct cpu *cpu, const struct op *op, struct gather *gather,
			    unsigned int at)
{
	unsigned int size_bytes = gather->element_bytes;
	int64_t index = gather->index_bytes == 4 ? (int32_t)gather->index.dword[at]
						 : (int64_t)gather->index.qword[at];
	uint64_t element;
	enum step step =
	    op_load_part(cpu, op, (uint64_t)index << op->scale_shift, size_bytes, &element);

	if (step)
		return step;
	memcpy(&gather->result.byte[at * size_bytes], &element, size_bytes);
	memset(&gather->mask.byte[at * size_bytes], 0, size_bytes);
	return STEP_NEXT;
}

/* All elements are there: what lies past them becomes 0, and the whole mask. */
static void gather_clear(struct gather *gather)
{
	unsigned int size_bytes = gather->count * gather->element_bytes;

	memset(&gather->result.byte[size_bytes], 0, sizeof(gather->result) - size_bytes);
	memset(&gather->mask, 0, sizeof(gather->mask));
}

static void gather_store(struct cpu *cpu, const struct op *op, const struct gather *gather)
{
	*sse_register(cpu, op->dst) = gather->result.lane[0];
	*avx_high(cpu, op->dst) = gather->result.lane[1];
	*sse_register(cpu, op->src2) = gather->mask.lane[0];
	*avx_high(cpu, op->src2) = gather->mask.lane[1];
}

static enum step exec_gather(struct cpu *cpu, const struct op *op)
{
	enum step step = avx_check(cpu);
	struct gather gather;

	if (unlikely(step))
		return step;
	gather_prepare(cpu, op, &gather);
	for (unsigned int i = 0; !step && i < gather.count; i++) {
		if (is_selected(&gather.mask, i, gather.element_bytes))
			step = gather_one(cpu, op, &gather, i);
	}
	/* A fault that the guest sees shows how far it came. Any other begins again from the start.
	 */
	if (likely(!step))
		gather_clear(&gather);
	if (likely(!step) || cpu->stop == STOP_EXCEPTION)
		gather_store(cpu, op, &gather);
	return step;
}

static op_fn bind_gather(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	op->imm = op->index;
	op->index = offsetof(struct cpu, zero);
	return exec_gather;
}

#define GATHER(name, element_bytes, index_bytes)                                           \
	{                                                                                  \
		ZYDIS_MNEMONIC_##name, NULL, bind_gather, element_bytes | index_bytes << 8 \
	}

const struct insn_desc exec_avx_memory_table[] = {
    {ZYDIS_MNEMONIC_VMASKMOVPS, NULL, bind_masked, 4},
    {ZYDIS_MNEMONIC_VMASKMOVPD, NULL, bind_masked, 8},
    {ZYDIS_MNEMONIC_VPMASKMOVD, NULL, bind_masked, 4},
    {ZYDIS_MNEMONIC_VPMASKMOVQ, NULL, bind_masked, 8},
    GATHER(VGATHERDPS, 4, 4),
    GATHER(VGATHERDPD, 8, 4),
    GATHER(VGATHERQPS, 4, 8),
    GATHER(VGATHERQPD, 8, 8),
    GATHER(VPGATHERDD, 4, 4),
    GATHER(VPGATHERDQ, 8, 4),
    GATHER(VPGATHERQD, 4, 8),
    GATHER(VPGATHERQQ, 8, 8),
    {0},
};
