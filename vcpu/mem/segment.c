/* Segments: descriptors, loads, checks, and the modes that follow from them. */
#include "vcpu/mem/segment.h"

#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/raise.h"

#define SELECTOR_RPL 3u
#define SELECTOR_LOCAL 4u

#define TYPE_ACCESSED 1u
#define TYPE_CODE 8u
#define TYPE_CONFORMING 4u
#define TYPE_EXPAND_DOWN 4u
#define TYPE_WRITABLE 2u
#define TYPE_READABLE 2u

void cpu_update_mode(struct cpu *cpu)
{
	const struct cpu_segment *code = &cpu->s.seg[CPU_CS];
	const struct cpu_segment *stack = &cpu->s.seg[CPU_SS];

	cpu->code_bytes = code->db ? 4 : 2;
	cpu->stack_bytes = stack->db ? 4 : 2;
	if (cpu_is_long(cpu) && code->l) {
		cpu->code_bytes = 8;
		cpu->stack_bytes = 8;
	}
	if (!(cpu->s.cr0 & CR0_PE))
		cpu->cpl = 0;
	else if (cpu->s.rflags & FLAG_VM)
		cpu->cpl = 3;
	else
		cpu->cpl = stack->dpl;
	mmu_update_mode(cpu);
}

enum step system_read(struct cpu *cpu, uint64_t linear, void *dst, unsigned int size_bytes)
{
	unsigned int saved = mmu_system_begin(cpu);
	enum step step = mem_read(cpu, linear, dst, size_bytes);

	mmu_system_end(cpu, saved);
	return step;
}

static enum step descriptor_locate(struct cpu *cpu, uint16_t selector, unsigned int size_bytes,
				   uint64_t *linear)
{
	uint32_t offset = selector & ~7u;
	uint64_t base = cpu->s.gdt.base;
	uint32_t limit = cpu->s.gdt.limit;

	if (selector & SELECTOR_LOCAL) {
		if (cpu->s.seg[CPU_LDTR].unusable)
			return cpu_raise_error(cpu, VECTOR_GP, selector & ~SELECTOR_RPL);
		base = cpu->s.seg[CPU_LDTR].base;
		limit = cpu->s.seg[CPU_LDTR].limit;
	}
	if (offset + size_bytes - 1 > limit)
		return cpu_raise_error(cpu, VECTOR_GP, selector & ~SELECTOR_RPL);
	*linear = base + offset;
	return STEP_NEXT;
}

enum step descriptor_read(struct cpu *cpu, uint16_t selector, uint64_t *descriptor)
{
	uint64_t linear = 0;
	enum step step = descriptor_locate(cpu, selector, 8, &linear);

	return step ? step : system_read(cpu, linear, descriptor, sizeof(*descriptor));
}

enum step descriptor_read_high(struct cpu *cpu, uint16_t selector, uint64_t *high)
{
	uint64_t linear = 0;
	enum step step = descriptor_locate(cpu, selector, 16, &linear);

	return step ? step : system_read(cpu, linear + 8, high, sizeof(*high));
}

/* An OR that no other store to the byte at @linear comes between. */
static enum step byte_set_bits(struct cpu *cpu, uint64_t linear, uint8_t bits)
{
	struct mem_cmpxchg_request request = {.linear = linear, .size_bytes = 1};
	uint64_t found = 0;
	int swapped = 0;
	enum step step = mem_load_for_store(cpu, linear, 1, &found);

	while (!step && !swapped) {
		request.desired = found | bits;
		step = mem_cmpxchg(cpu, &request, &found, &swapped);
	}
	return step;
}

enum step descriptor_set_type(struct cpu *cpu, uint16_t selector, uint8_t bits)
{
	uint64_t linear = 0;
	enum step step = descriptor_locate(cpu, selector, 8, &linear);
	unsigned int saved;

	if (step)
		return step;
	saved = mmu_system_begin(cpu);
	step = byte_set_bits(cpu, linear + DESC_TYPE_BYTE, bits);
	mmu_system_end(cpu, saved);
	return step;
}

enum step descriptor_accessed(struct cpu *cpu, uint16_t selector, uint64_t descriptor)
{
	if (descriptor & DESC_ACCESSED)
		return STEP_NEXT;
	return descriptor_set_type(cpu, selector, TYPE_ACCESSED);
}

struct cpu_segment descriptor_decode(uint16_t selector, uint64_t descriptor)
{
	struct cpu_segment segment = {
	    .base = (descriptor >> 16 & 0xffffff) | (descriptor >> 56 << 24),
	    .limit = (descriptor & 0xffff) | (descriptor >> 32 & 0xf0000),
	    .selector = selector,
	};

	segment_set_attributes(&segment, segment_join_attributes((uint32_t)(descriptor >> 40)));
	if (segment.g)
		segment.limit = segment.limit << 12 | 0xfff;
	return segment;
}

void segment_load_real(struct cpu *cpu, unsigned int seg, uint16_t selector)
{
	struct cpu_segment *segment = &cpu->s.seg[seg];

	segment->selector = selector;
	segment->base = (uint64_t)selector << 4;
	if (cpu->s.rflags & FLAG_VM) {
		*segment = (struct cpu_segment){.base = segment->base,
						.limit = 0xffff,
						.selector = selector,
						.type = 3,
						.s = 1,
						.dpl = 3,
						.present = 1};
	}
	segment->unusable = 0;
}

static enum step load_null(struct cpu *cpu, unsigned int seg, uint16_t selector)
{
	struct cpu_segment null = {.selector = selector, .unusable = 1};

	if (seg == CPU_SS) {
		if (cpu->code_bytes != 8 || cpu->cpl == 3 || (selector & 3) != cpu->cpl)
			return cpu_raise_error(cpu, VECTOR_GP, 0);
		null.dpl = cpu->cpl;
	}
	cpu->s.seg[seg] = null;
	return STEP_NEXT;
}

static int may_load(const struct cpu *cpu, unsigned int seg, const struct cpu_segment *segment)
{
	unsigned int rpl = segment->selector & SELECTOR_RPL;

	if (!segment->s)
		return 0;
	if (seg == CPU_SS)
		return !(segment->type & TYPE_CODE) && (segment->type & TYPE_WRITABLE) &&
		       rpl == cpu->cpl && segment->dpl == cpu->cpl;
	if ((segment->type & TYPE_CODE) && !(segment->type & TYPE_READABLE))
		return 0;
	if ((segment->type & TYPE_CODE) && (segment->type & TYPE_CONFORMING))
		return 1;
	return segment->dpl >= cpu->cpl && segment->dpl >= rpl;
}

enum step segment_load(struct cpu *cpu, unsigned int seg, uint16_t selector)
{
	uint32_t error = selector & ~SELECTOR_RPL;
	struct cpu_segment segment;
	uint64_t descriptor;
	enum step step;

	if (!cpu_is_protected(cpu)) {
		segment_load_real(cpu, seg, selector);
		return STEP_NEXT;
	}
	if (!(selector & ~SELECTOR_RPL)) {
		step = load_null(cpu, seg, selector);
		cpu_update_mode(cpu);
		return step;
	}
	step = descriptor_read(cpu, selector, &descriptor);
	if (step)
		return step;
	segment = descriptor_decode(selector, descriptor);
	if (!may_load(cpu, seg, &segment))
		return cpu_raise_error(cpu, VECTOR_GP, error);
	if (!segment.present)
		return cpu_raise_error(cpu, seg == CPU_SS ? VECTOR_SS : VECTOR_NP, error);
	step = descriptor_accessed(cpu, selector, descriptor);
	if (step)
		return step;
	segment.type |= 1;
	cpu->s.seg[seg] = segment;
	cpu_update_mode(cpu);
	return STEP_NEXT;
}

int segment_permits(const struct cpu_segment *segment, uint64_t offset, unsigned int size_bytes)
{
	uint64_t last = offset + size_bytes - 1;

	if (!(segment->type & TYPE_CODE) && (segment->type & TYPE_EXPAND_DOWN) && segment->s)
		return offset > segment->limit &&
		       last <= (segment->db ? UINT32_MAX : UINT64_C(0xffff));
	return last <= segment->limit;
}

static int is_execute_only(const struct cpu_segment *segment)
{
	return (segment->type & (TYPE_CODE | TYPE_READABLE)) == TYPE_CODE;
}

enum step segment_check(struct cpu *cpu, unsigned int seg, uint64_t offset, unsigned int size_bytes,
			uint64_t *linear)
{
	const struct cpu_segment *segment = &cpu->s.seg[seg];

	if (cpu->code_bytes == 8) {
		*linear = offset + (seg == CPU_FS || seg == CPU_GS ? segment->base : 0);
		return STEP_NEXT;
	}
	if (segment->unusable || !segment_permits(segment, offset, size_bytes) ||
	    (is_execute_only(segment) && cpu_is_protected(cpu)))
		return cpu_raise_error(cpu, seg == CPU_SS ? VECTOR_SS : VECTOR_GP, 0);
	*linear = (uint32_t)(segment->base + offset);
	return STEP_NEXT;
}

enum step segment_check_store(struct cpu *cpu, unsigned int seg)
{
	const struct cpu_segment *segment = &cpu->s.seg[seg];

	/* Real mode writes to its code segment, too. */
	if (cpu->code_bytes == 8 || !cpu_is_protected(cpu) ||
	    (segment->type & (TYPE_CODE | TYPE_WRITABLE)) == TYPE_WRITABLE)
		return STEP_NEXT;
	return cpu_raise_error(cpu, seg == CPU_SS ? VECTOR_SS : VECTOR_GP, 0);
}

enum step code_target_check_offset(struct cpu *cpu, const struct code_target *target)
{
	if (cpu_is_long(cpu) && target->segment.l) {
		if (!mmu_is_canonical_now(cpu, target->offset))
			return cpu_raise_error(cpu, VECTOR_GP, 0);
		return STEP_NEXT;
	}
	if (target->offset > target->segment.limit)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

void code_target_commit(struct cpu *cpu, const struct code_target *target)
{
	cpu->s.seg[CPU_CS] = target->segment;
	cpu->s.seg[CPU_CS].selector = (target->selector & ~SELECTOR_RPL) | target->new_cpl;
	cpu->s.seg[CPU_CS].type |= 1;
	cpu->s.rip = target->offset;
}
