/* Port I/O. Every access is a question to the surroundings, answered through the replay log. */
#include "vcpu/exec/exec.h"
#include "vcpu/exec/operand.h"
#include "vcpu/exec/string.h"
#include "vcpu/mem/mem.h"
#include "vcpu/mem/segment.h"
#include "vcpu/run/debug.h"
#include "vcpu/run/raise.h"
#include "vcpu/run/replay.h"
#include "vcpu/svm/svm.h"

#define TSS_IO_MAP_BASE 0x66

/* May this privilege touch the port? The TSS has a bit for each. */
static enum step port_check(struct cpu *cpu, uint16_t port, unsigned int size)
{
	const struct cpu_segment *tss = &cpu->s.seg[CPU_TR];
	unsigned int iopl = cpu->s.rflags >> 12 & 3;
	uint16_t map, bits;
	uint32_t offset;
	enum step step;

	if (!(cpu->s.cr0 & CR0_PE) || (cpu->cpl <= iopl && !(cpu->s.rflags & FLAG_VM)))
		return STEP_NEXT;
	if (tss->unusable || tss->limit < TSS_IO_MAP_BASE + 1)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = system_read(cpu, tss->base + TSS_IO_MAP_BASE, &map, sizeof(map));
	if (step)
		return step;
	offset = map + port / 8u;
	if (offset + 1 > tss->limit)
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	step = system_read(cpu, tss->base + offset, &bits, sizeof(bits));
	if (step)
		return step;
	if (bits >> (port & 7) & ((1u << size) - 1))
		return cpu_raise_error(cpu, VECTOR_GP, 0);
	return STEP_NEXT;
}

static enum step ask_input(struct cpu *cpu, const struct cpu_io *io, uint64_t *value)
{
	const struct replay_entry *entry;
	enum step step = port_check(cpu, (uint16_t)io->address, io->size_bytes);

	if (!step)
		step = replay_ask(cpu, REPLAY_PIO, io, &entry);
	if (step)
		return step;
	*value = 0;
	memcpy(value, entry->io.data, io->size_bytes);
	debug_note_port(cpu, (uint16_t)io->address, io->size_bytes);
	return STEP_NEXT;
}

static enum step port_read(struct cpu *cpu, uint16_t port, unsigned int size, uint64_t *value)
{
	struct cpu_io io = {.address = port, .size_bytes = size};

	return ask_input(cpu, &io, value);
}

static int has_ahead(const struct cpu *cpu, const struct op *op)
{
	const struct input_ahead *ahead = &cpu->ahead;

	return ahead->next + op->size <= ahead->end && ahead->rip == cpu->s.rip;
}

/*
 * One element of INS. Repeated, the client is asked for as many as fit between RDI and the end of a
 * page in the direction of DF, as KVM does, which leaves the segment's base aside; what it gave
 * ahead comes first. RCX counts what is stored.
 */
static enum step string_read(struct cpu *cpu, const struct op *op, uint64_t *value)
{
	struct cpu_io io = {.address = (uint16_t)cpu->s.gpr[CPU_RDX], .size_bytes = op->size};
	struct input_ahead *ahead = &cpu->ahead;
	uint64_t below = cpu->s.gpr[CPU_RDI] & PAGE_OFFSET_MASK;
	uint64_t above = QUIRE_PAGE_SIZE - below;
	uint64_t room = (cpu->s.rflags & FLAG_DF ? below : above) / op->size;
	uint64_t count = string_register(cpu, op, CPU_RCX);

	if (!(op->flags & (OP_REP | OP_REPNE)))
		return ask_input(cpu, &io, value);
	if (has_ahead(cpu, op)) {
		*value = 0;
		memcpy(value, &ahead->data[ahead->next], op->size);
		return STEP_NEXT;
	}
	room = room < INPUT_MAX / op->size ? room : INPUT_MAX / op->size;
	io.count = (uint32_t)(count < room ? count : room);
	return ask_input(cpu, &io, value);
}

/* The element that string_read() gave is stored. */
static void string_taken(struct cpu *cpu, const struct op *op)
{
	struct input_ahead *ahead = &cpu->ahead;

	if (has_ahead(cpu, op))
		ahead->next += op->size;
	/* The end of the instruction: more was given than is counted now. */
	if (string_register(cpu, op, CPU_RCX) == 1)
		ahead->next = ahead->end;
}

static enum step port_write(struct cpu *cpu, uint16_t port, unsigned int size, uint64_t value)
{
	struct cpu_io io = {.address = port, .size_bytes = size, .is_write = true};
	const struct replay_entry *entry;
	enum step step = port_check(cpu, port, size);

	memcpy(io.data, &value, size);
	if (!step)
		step = replay_ask(cpu, REPLAY_PIO, &io, &entry);
	if (!step)
		debug_note_port(cpu, port, size);
	return step;
}

static uint16_t port_of(const struct cpu *cpu, const struct op *op, unsigned int which)
{
	return op->kind[which] == OPERAND_IMM ? (uint8_t)op->imm : cpu->s.gpr[CPU_RDX];
}

/* L1's intercept comes after the checks of privilege. */
static enum step port_intercept(struct cpu *cpu, const struct op *op, unsigned int which, int is_in)
{
	struct svm_io io = {
	    .port = port_of(cpu, op, which),
	    .size_bytes = op->size,
	    .address_bytes = op->address_bytes ? op->address_bytes : 8,
	    .is_in = is_in,
	};
	enum step step;

	if (likely(!cpu->svm.in_guest_mode))
		return STEP_NEXT;
	step = port_check(cpu, io.port, io.size_bytes);
	return step ? step : svm_intercept_io(cpu, &io);
}

static enum step in(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = port_intercept(cpu, op, 1, 1);

	if (!step)
		step = port_read(cpu, port_of(cpu, op, 1), op->size, &value);
	if (step)
		return step;
	reg_set(cpu, GPR_OFFSET(CPU_RAX), op->size, value);
	return STEP_END;
}

static enum step out(struct cpu *cpu, const struct op *op)
{
	enum step step = port_intercept(cpu, op, 0, 0);

	if (!step)
		step = port_write(cpu, port_of(cpu, op, 0), op->size, cpu->s.gpr[CPU_RAX]);
	return step ? step : STEP_END;
}

static op_fn bind_out(struct op *op, const struct decoded *decoded)
{
	op->size = decoded->operand[1].size / 8;
	return out;
}

/* The store is checked before the port is read: what a device gave must not be lost. */
static enum step ins_element(struct cpu *cpu, const struct op *op)
{
	uint64_t target, value;
	enum step step = string_target_store(cpu, op, &target);

	if (!step)
		step = mem_probe_write(cpu, target, op->size);
	if (!step)
		step = string_read(cpu, op, &value);
	if (!step)
		step = mem_store(cpu, target, op->size, value);
	if (step)
		return step;
	string_taken(cpu, op);
	string_advance(cpu, op, CPU_RDI, op->size);
	return STEP_NEXT;
}

static enum step outs_element(struct cpu *cpu, const struct op *op)
{
	uint64_t source, value;
	enum step step = string_source(cpu, op, &source);

	if (!step)
		step = mem_load(cpu, source, op->size, &value);
	if (!step)
		step = port_write(cpu, cpu->s.gpr[CPU_RDX], op->size, value);
	if (step)
		return step;
	string_advance(cpu, op, CPU_RSI, op->size);
	return STEP_NEXT;
}

static enum step string_io(struct cpu *cpu, const struct op *op)
{
	op_fn element = op->aux ? outs_element : ins_element;
	struct svm_io io = {
	    .port = cpu->s.gpr[CPU_RDX],
	    .size_bytes = op->size,
	    .address_bytes = op->address_bytes,
	    .is_in = !op->aux,
	    .is_string = 1,
	    .is_repeated = (op->flags & (OP_REP | OP_REPNE)) != 0,
	    .segment = op->aux ? op->seg : CPU_ES,
	};
	enum step step = STEP_NEXT;

	/* The port's right comes before memory's. */
	if (unlikely(cpu->svm.in_guest_mode) || !io.is_repeated ||
	    string_register(cpu, op, CPU_RCX))
		step = port_check(cpu, io.port, io.size_bytes);
	if (!step)
		step = svm_intercept_io(cpu, &io);
	if (step)
		return step;
	if (!(op->flags & (OP_REP | OP_REPNE))) {
		step = element(cpu, op);
		return step ? step : STEP_END;
	}
	while (!step && string_register(cpu, op, CPU_RCX))
		step = string_repeat(cpu, op, element);
	return step ? step : STEP_END;
}

static op_fn bind_string_io(struct op *op, const struct decoded *decoded)
{
	string_bind(op, decoded);
	return string_io;
}

const struct insn_desc exec_io_table[] = {
    {ZYDIS_MNEMONIC_IN, in, NULL, 0},
    {ZYDIS_MNEMONIC_OUT, NULL, bind_out, 0},
    {ZYDIS_MNEMONIC_INSB, NULL, bind_string_io, 0},
    {ZYDIS_MNEMONIC_INSW, NULL, bind_string_io, 0},
    {ZYDIS_MNEMONIC_INSD, NULL, bind_string_io, 0},
    {ZYDIS_MNEMONIC_OUTSB, NULL, bind_string_io, 1},
    {ZYDIS_MNEMONIC_OUTSW, NULL, bind_string_io, 1},
    {ZYDIS_MNEMONIC_OUTSD, NULL, bind_string_io, 1},
    {0, NULL, NULL, 0},
};
