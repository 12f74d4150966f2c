/*
 * Lockstep: each instruction that became code runs in the interpreter too, and both must agree.
 *
 * Units end after each instruction then, and lead to no other. Before code is entered, the
 * interpreter runs its instruction; registers, flags and memory are noted and put back. What code
 * leaves is compared with that. Memory is put back by stores, so this is for one vCPU.
 */
#include "vcpu/translate/lockstep.h"

#include <stdio.h>

#include "vcpu/decode/decode.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mmu.h"
#include "vcpu/run/raise.h"

/* The flags that the architecture leaves undefined: any value is right. */
static uint64_t undefined_flags(unsigned int mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
		return FLAG_AF;
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return FLAG_AF | FLAG_OF | FLAG_CF;
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
		return FLAG_OF;
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
		return FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
		return FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF;
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
		return FLAGS_ARITHMETIC & ~FLAG_ZF;
	case ZYDIS_MNEMONIC_DIV:
		return FLAGS_ARITHMETIC;
	default:
		return 0;
	}
}

/* Read what @piece is of. Operands have few sizes: a copy of any length takes much longer. */
static enum guard_reason piece_read(const struct lockstep_piece *piece, uint8_t *bytes)
{
	uint64_t word = 0;
	uint32_t half = 0;
	enum guard_reason reason;
	size_t done;

	if (piece->size_bytes == sizeof(word)) {
		reason = guard_load_u64(piece->host, &word);
		if (reason == GUARD_OK)
			memcpy(bytes, &word, sizeof(word));
		return reason;
	}
	if (piece->size_bytes == sizeof(half)) {
		reason = guard_load_u32(piece->host, &half);
		if (reason == GUARD_OK)
			memcpy(bytes, &half, sizeof(half));
		return reason;
	}
	if (piece->size_bytes == 1)
		return guard_load_u8(piece->host, bytes);
	return guard_copy(bytes, piece->host, piece->size_bytes, &done);
}

/* Note what is at @linear. Nonzero: no translation at hand, or over a page's end. */
static int note_piece(struct cpu *cpu, uint64_t linear, unsigned int size_bytes, int is_written)
{
	struct lockstep *lockstep = cpu->translate->lockstep;
	struct lockstep_piece *piece = &lockstep->piece[lockstep->pieces];

	if (size_bytes > sizeof(piece->before) ||
	    (linear & PAGE_OFFSET_MASK) + size_bytes > QUIRE_PAGE_SIZE)
		return -1;
	piece->host = tlb_find(cpu, linear, MMU_WRITE);
	if (!piece->host)
		piece->host = tlb_find(cpu, linear, MMU_READ);
	piece->size_bytes = (uint8_t)size_bytes;
	piece->is_written = is_written != 0;
	if (!piece->host || piece_read(piece, piece->before) != GUARD_OK)
		return -1;
	lockstep->pieces++;
	return 0;
}

static int note_memory(struct cpu *cpu, const struct op *op)
{
	const struct lockstep *lockstep = cpu->translate->lockstep;
	uint64_t rsp = cpu->s.gpr[CPU_RSP];
	int is_written = lockstep->unit->op[lockstep->op].is_write;
	const char *base = (const char *)cpu + op->seg_base;

	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_CALL:
		if (note_piece(cpu, rsp - 8, 8, 1))
			return -1;
		is_written = 0; /* what is pushed */
		break;
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_RET:
		if (note_piece(cpu, rsp, 8, 0))
			return -1;
		break;
	case ZYDIS_MNEMONIC_LEAVE:
		return note_piece(cpu, cpu->s.gpr[CPU_RBP], 8, 0);
	case ZYDIS_MNEMONIC_LEA:
	case ZYDIS_MNEMONIC_NOP:
		return 0;
	default:
		break;
	}
	if (!op->mem_size)
		return 0;
	return note_piece(cpu, op_effective(cpu, op) + *(const uint64_t *)(const void *)base,
			  op->mem_size, is_written);
}

/* A signal may break an access off; the next attempt is not broken off by the same one. */
static void read_surely(const struct lockstep_piece *piece, uint8_t *bytes)
{
	while (piece_read(piece, bytes) == GUARD_ABORT)
		;
}

static void write_back(const struct lockstep_piece *piece)
{
	size_t done;

	while (guard_copy(piece->host, piece->before, piece->size_bytes, &done) == GUARD_ABORT)
		;
}

/*
 * Memory as it was. What the instruction only reads stays: there the client has stored meanwhile.
 * Nonzero: so it has, and code may read something else.
 */
static int restore_memory(struct lockstep *lockstep)
{
	int has_changed = 0;

	for (unsigned int i = 0; i < lockstep->pieces; i++) {
		struct lockstep_piece *piece = &lockstep->piece[i];

		read_surely(piece, piece->after);
		if (!memcmp(piece->before, piece->after, piece->size_bytes))
			continue;
		if (piece->is_written)
			write_back(piece);
		else
			has_changed = 1;
	}
	return has_changed;
}

static void swap_xmm(struct cpu *cpu, struct lockstep *lockstep)
{
	uint8_t xmm[16][16];

	memcpy(xmm, cpu->s.xmm, sizeof(xmm));
	memcpy(cpu->s.xmm, lockstep->xmm, sizeof(xmm));
	memcpy(lockstep->xmm, xmm, sizeof(xmm));
}

/* Run it in the interpreter, note what comes of it, and put everything back. Nonzero: not to be
 * compared. */
static int interpret_and_undo(struct cpu *cpu, const struct op *op)
{
	struct lockstep *lockstep = cpu->translate->lockstep;
	uint64_t gpr[16], rip = cpu->s.rip, cr2 = cpu->s.cr2;
	uint64_t result = cpu->cc_result, carry = cpu->cc_carry;
	uint64_t gs_base = cpu->s.seg[CPU_GS].base, kernel_gs_base = cpu->s.kernel_gs_base;
	const struct op *end = lockstep->unit->block->ops + lockstep->unit->op_count;
	enum step step;
	int has_changed;

	memcpy(gpr, cpu->s.gpr, sizeof(gpr));
	memcpy(lockstep->xmm, cpu->s.xmm, sizeof(lockstep->xmm));
	cpu->op = op;
	cpu->block_end = end;
	step = op->run(cpu, op);
	lockstep->rip = step & STEP_F_JUMPED ? cpu->s.rip : op_next_rip(cpu, op);
	lockstep->flags = flags_arithmetic(cpu);
	memcpy(lockstep->gpr, cpu->s.gpr, sizeof(gpr));
	/* Few instructions change them: what is there is what was before. */
	if (memcmp(lockstep->xmm, cpu->s.xmm, sizeof(lockstep->xmm)))
		swap_xmm(cpu, lockstep);
	lockstep->gs_base = cpu->s.seg[CPU_GS].base;
	lockstep->kernel_gs_base = cpu->s.kernel_gs_base;
	has_changed = restore_memory(lockstep);
	cpu->s.seg[CPU_GS].base = gs_base;
	cpu->s.kernel_gs_base = kernel_gs_base;
	memcpy(cpu->s.gpr, gpr, sizeof(gpr));
	cpu->s.rip = rip;
	cpu->s.cr2 = cr2;
	cpu->cc_result = result;
	cpu->cc_carry = carry;
	cpu->op = NULL;
	if (!(step & STEP_F_ABORT))
		return has_changed;
	cpu->stop = STOP_NONE;
	return -1;
}

void lockstep_begin(struct cpu *cpu, const struct unit *unit, unsigned int op)
{
	struct lockstep *lockstep = cpu->translate->lockstep;

	lockstep->unit = unit;
	lockstep->op = op;
	lockstep->pieces = 0;
	lockstep->is_checked = 0;
	if (op >= unit->op_count || !unit->op[op].is_code)
		return;
	if (note_memory(cpu, &unit->block->ops[op]))
		return;
	lockstep->is_checked = !interpret_and_undo(cpu, &unit->block->ops[op]);
}

static int memory_differs(const struct lockstep *lockstep)
{
	for (unsigned int i = 0; i < lockstep->pieces; i++) {
		const struct lockstep_piece *piece = &lockstep->piece[i];
		uint8_t now[sizeof(piece->after)] = {0};

		read_surely(piece, now);
		if (memcmp(now, piece->after, piece->size_bytes))
			return 1;
	}
	return 0;
}

static int registers_differ(const struct cpu *cpu)
{
	const struct lockstep *lockstep = cpu->translate->lockstep;

	return cpu->s.rip != lockstep->rip ||
	       memcmp(cpu->s.gpr, lockstep->gpr, sizeof(lockstep->gpr)) ||
	       memcmp(cpu->s.xmm, lockstep->xmm, sizeof(lockstep->xmm)) ||
	       cpu->s.seg[CPU_GS].base != lockstep->gs_base ||
	       cpu->s.kernel_gs_base != lockstep->kernel_gs_base;
}

static void report(struct cpu *cpu, const struct op *op, uint64_t flags)
{
	struct lockstep *lockstep = cpu->translate->lockstep;
	unsigned int reg = 0;
	char line[200];

	while (reg < 15 && cpu->s.gpr[reg] == lockstep->gpr[reg])
		reg++;
	snprintf(line, sizeof(line),
		 "vcpu: translated code differs: %s to RIP %#llx, not %#llx; register %u %#llx, "
		 "not %#llx; flags differ in %#llx%s",
		 decode_mnemonic(op->mnemonic), (unsigned long long)cpu->s.rip,
		 (unsigned long long)lockstep->rip, reg, (unsigned long long)cpu->s.gpr[reg],
		 (unsigned long long)lockstep->gpr[reg], (unsigned long long)flags,
		 memory_differs(lockstep) ? "; memory" : "");
	cpu_leave_guest(cpu);
	cpu->ops->log(cpu->ctx, line);
	cpu->info->insn_size_bytes = 0;
	(void)cpu_stop_exit(cpu, CPU_EXIT_EMULATION);
}

int lockstep_differs(struct cpu *cpu)
{
	struct lockstep *lockstep = cpu->translate->lockstep;
	const struct op *op;
	uint64_t flags;
	int reads_only;

	/* Else the code may be what stands behind the last operation, which is none. */
	if (!lockstep->is_checked)
		return 0;
	lockstep->is_checked = 0;
	op = &lockstep->unit->block->ops[lockstep->op];
	flags = (flags_arithmetic(cpu) ^ lockstep->flags) & ~undefined_flags(op->mnemonic);
	reads_only = !lockstep->unit->op[lockstep->op].is_write;
	/* A device may have changed meanwhile what is only read. */
	if (memory_differs(lockstep) ? reads_only : !flags && !registers_differ(cpu))
		return 0;
	report(cpu, op, flags);
	return 1;
}
