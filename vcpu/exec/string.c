/*
 * String instructions. Registers move after every element, so a fault in the middle leaves the
 * state of that element, and a repeated instruction starts again where it was. Repeated moves and
 * stores of 64-bit code go a page at a time.
 */
#include "vcpu/exec/string.h"

#include "vcpu/exec/exec.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/replay.h"

uint64_t string_register(const struct cpu *cpu, const struct op *op, unsigned int reg)
{
	return cpu->s.gpr[reg] & size_mask(op->address_bytes);
}

void string_advance(struct cpu *cpu, const struct op *op, unsigned int reg, uint64_t bytes)
{
	uint64_t value = cpu->s.gpr[reg];

	value = cpu->s.rflags & FLAG_DF ? value - bytes : value + bytes;
	reg_set(cpu, GPR_OFFSET(reg), op->address_bytes, value);
}

/* Between two elements: what comes now sees RF set, as the first breakpoint has passed. */
static enum step stop_restart(struct cpu *cpu)
{
	cpu->s.rflags |= FLAG_RF;
	cpu->stop = STOP_RESTART;
	return STEP_ABORT;
}

enum step string_source(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	return segment_check(cpu, op->seg, string_register(cpu, op, CPU_RSI), op->size, linear);
}

enum step string_target(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	return segment_check(cpu, CPU_ES, string_register(cpu, op, CPU_RDI), op->size, linear);
}

enum step string_target_store(struct cpu *cpu, const struct op *op, uint64_t *linear)
{
	enum step step = segment_check_store(cpu, CPU_ES);

	return step ? step : string_target(cpu, op, linear);
}

static enum step movs_element(struct cpu *cpu, const struct op *op)
{
	uint64_t source, target, value;
	enum step step = string_source(cpu, op, &source);

	/* The source is read before the target is looked at. */
	if (!step)
		step = mem_load(cpu, source, op->size, &value);
	if (!step)
		step = string_target_store(cpu, op, &target);
	if (!step)
		step = mem_store(cpu, target, op->size, value);
	if (step)
		return step;
	string_advance(cpu, op, CPU_RSI, op->size);
	string_advance(cpu, op, CPU_RDI, op->size);
	return STEP_NEXT;
}

static enum step stos_element(struct cpu *cpu, const struct op *op)
{
	uint64_t target;
	enum step step = string_target_store(cpu, op, &target);

	if (!step)
		step = mem_store(cpu, target, op->size, cpu->s.gpr[CPU_RAX]);
	if (step)
		return step;
	string_advance(cpu, op, CPU_RDI, op->size);
	return STEP_NEXT;
}

static enum step lods_element(struct cpu *cpu, const struct op *op)
{
	uint64_t source, value;
	enum step step = string_source(cpu, op, &source);

	if (!step)
		step = mem_load(cpu, source, op->size, &value);
	if (step)
		return step;
	reg_set(cpu, GPR_OFFSET(CPU_RAX), op->size, value);
	string_advance(cpu, op, CPU_RSI, op->size);
	return STEP_NEXT;
}

static void compare(struct cpu *cpu, uint64_t a, uint64_t b, unsigned int size)
{
	flags_set_result(cpu, a - b, size, carry_word(carries_of_sub(a, b, a - b), size));
}

static enum step scas_element(struct cpu *cpu, const struct op *op)
{
	uint64_t target, value;
	enum step step = string_target(cpu, op, &target);

	if (!step)
		step = mem_load(cpu, target, op->size, &value);
	if (step)
		return step;
	compare(cpu, reg_get(cpu, GPR_OFFSET(CPU_RAX), op->size), value, op->size);
	string_advance(cpu, op, CPU_RDI, op->size);
	return STEP_NEXT;
}

static enum step cmps_element(struct cpu *cpu, const struct op *op)
{
	uint64_t source, target, a, b;
	/* The target is read first, as AMD's processors do. */
	enum step step = string_target(cpu, op, &target);

	if (!step)
		step = mem_load(cpu, target, op->size, &b);
	if (!step)
		step = string_source(cpu, op, &source);
	if (!step)
		step = mem_load(cpu, source, op->size, &a);
	if (step)
		return step;
	compare(cpu, a, b, op->size);
	string_advance(cpu, op, CPU_RSI, op->size);
	string_advance(cpu, op, CPU_RDI, op->size);
	return STEP_NEXT;
}

static uint64_t elements_to_page_end(uint64_t linear, unsigned int size)
{
	return (QUIRE_PAGE_SIZE - (linear & PAGE_OFFSET_MASK)) / size;
}

/*
 * As many elements as both pages hold, at host speed. Returns how many were done; 0 leaves the
 * work, and the faults, to the slow way. *@step is STEP_ABORT when the doorbell rang inside.
 */
static uint64_t bulk_copy(struct cpu *cpu, const struct op *op, uint64_t count, enum step *step)
{
	uint64_t source, target = cpu->s.gpr[CPU_RDI];
	const char *from;
	char *to;
	size_t done = 0;

	if (string_source(cpu, op, &source))
		return 0; /* not in 64-bit mode */
	if (count > elements_to_page_end(source, op->size))
		count = elements_to_page_end(source, op->size);
	if (count > elements_to_page_end(target, op->size))
		count = elements_to_page_end(target, op->size);
	from = tlb_find(cpu, source, MMU_READ);
	to = tlb_find(cpu, target, MMU_WRITE);
	/* A target that starts inside the source repeats what it wrote: element by element. */
	if (!from || !to || (to > from && to < from + count * op->size))
		return 0;
	if (guard_copy(to, from, count * op->size, &done) == GUARD_ABORT)
		*step = stop_restart(cpu);
	return done / op->size;
}

static uint64_t bulk_fill(struct cpu *cpu, const struct op *op, uint64_t count, enum step *step)
{
	uint64_t target = cpu->s.gpr[CPU_RDI];
	struct guard_filling filling = {.value = cpu->s.gpr[CPU_RAX], .element_bytes = op->size};
	size_t done = 0;

	if (count > elements_to_page_end(target, op->size))
		count = elements_to_page_end(target, op->size);
	filling.dst = tlb_find(cpu, target, MMU_WRITE);
	if (!filling.dst)
		return 0;
	filling.count = count;
	if (guard_fill(&filling, &done) == GUARD_ABORT)
		*step = stop_restart(cpu);
	return done;
}

enum string_kind { STRING_MOVS, STRING_STOS, STRING_LODS, STRING_SCAS, STRING_CMPS };

static const op_fn elements[] = {
    [STRING_MOVS] = movs_element, [STRING_STOS] = stos_element, [STRING_LODS] = lods_element,
    [STRING_SCAS] = scas_element, [STRING_CMPS] = cmps_element,
};

static enum step string_once(struct cpu *cpu, const struct op *op)
{
	return elements[op->aux](cpu, op);
}

enum step string_repeat(struct cpu *cpu, const struct op *op, op_fn element)
{
	uint64_t count = string_register(cpu, op, CPU_RCX);
	enum step step;

	if (!count)
		return STEP_NEXT;
	step = element(cpu, op);
	if (step)
		return step;
	replay_retire(cpu);
	reg_set(cpu, GPR_OFFSET(CPU_RCX), op->address_bytes, count - 1);
	if (__atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED) || !cpu->block_end)
		return count == 1 ? STEP_END : stop_restart(cpu);
	return STEP_NEXT;
}

static uint64_t bulk(struct cpu *cpu, const struct op *op, uint64_t count, enum step *step)
{
	uint64_t done;

	if (cpu->code_bytes != 8 || op->address_bytes != 8 || (cpu->s.rflags & FLAG_DF) ||
	    replay_is_active(cpu))
		return 0;
	if (op->aux == STRING_STOS)
		done = bulk_fill(cpu, op, count, step);
	else if (op->aux == STRING_MOVS)
		done = bulk_copy(cpu, op, count, step);
	else
		return 0;
	cpu->s.gpr[CPU_RDI] += done * op->size;
	if (op->aux == STRING_MOVS)
		cpu->s.gpr[CPU_RSI] += done * op->size;
	cpu->s.gpr[CPU_RCX] -= done;
	return done;
}

/* REPE and REPNE of SCAS and CMPS: does the comparison end it? */
static int comparison_ends(const struct cpu *cpu, const struct op *op)
{
	if (op->aux < STRING_SCAS)
		return 0;
	return op->flags & OP_REPNE ? flag_zf(cpu) : !flag_zf(cpu);
}

static enum step string_all(struct cpu *cpu, const struct op *op)
{
	uint64_t count;

	while ((count = string_register(cpu, op, CPU_RCX)) != 0) {
		enum step step = STEP_NEXT;

		if (bulk(cpu, op, count, &step)) {
			if (!step && __atomic_load_n(cpu->doorbell, __ATOMIC_RELAXED) &&
			    cpu->s.gpr[CPU_RCX])
				step = stop_restart(cpu);
		} else if (!step) {
			step = string_repeat(cpu, op, elements[op->aux]);
		}
		if (step)
			return step;
		if (comparison_ends(cpu, op))
			break;
	}
	return STEP_NEXT;
}

static op_fn bind_string(struct op *op, const struct decoded *decoded)
{
	if (decoded->insn.meta.category != ZYDIS_CATEGORY_STRINGOP)
		return NULL; /* MOVSD, CMPSD of SSE2 */
	string_bind(op, decoded);
	return op->flags & (OP_REP | OP_REPNE) ? string_all : string_once;
}

void string_bind(struct op *op, const struct decoded *decoded)
{
	op->seg = CPU_DS;
	for (unsigned int i = 0; i < decoded->insn.operand_count; i++) {
		const ZydisDecodedOperand *operand = &decoded->operand[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		op->size = operand->size / 8;
		if (operand->mem.base == ZYDIS_REGISTER_RSI ||
		    operand->mem.base == ZYDIS_REGISTER_ESI ||
		    operand->mem.base == ZYDIS_REGISTER_SI)
			op->seg = operand->mem.segment - ZYDIS_REGISTER_ES;
	}
}

#define ROWS(name, kind)                                          \
	{ZYDIS_MNEMONIC_##name##B, NULL, bind_string, kind},      \
	    {ZYDIS_MNEMONIC_##name##W, NULL, bind_string, kind},  \
	    {ZYDIS_MNEMONIC_##name##D, NULL, bind_string, kind},  \
	{                                                         \
		ZYDIS_MNEMONIC_##name##Q, NULL, bind_string, kind \
	}

const struct insn_desc exec_string_table[] = {
    ROWS(MOVS, STRING_MOVS), ROWS(STOS, STRING_STOS), ROWS(LODS, STRING_LODS),
    ROWS(SCAS, STRING_SCAS), ROWS(CMPS, STRING_CMPS), {0, NULL, NULL, 0},
};
