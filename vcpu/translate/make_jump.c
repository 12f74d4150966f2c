/* Jumps, calls, and what moves RSP. */
#include "vcpu/exec/exec.h"
#include "vcpu/translate/make.h"

#define RSP_AT GPR_AT(CPU_RSP)

static struct host_mem linear_plus(int32_t disp)
{
	return (struct host_mem){.base = REG_LINEAR, .index = HOST_NONE, .disp = disp};
}

static const struct host_mem guest_memory = {.base = REG_LINEAR, .index = REG_TAG};

/* Check eight bytes below RSP; their address is in REG_LINEAR then. */
static void begin_push(struct making *m)
{
	struct host_mem below = linear_plus(-8);

	emit_load_field(&m->e, REG_LINEAR, RSP_AT);
	emit_lea(&m->e, REG_LINEAR, &below);
	make_check(m, 8, COLD_MISS_WRITE);
}

static void end_push(struct making *m, enum host_reg value)
{
	make_access_mark(m);
	emit_store(&m->e, value, &guest_memory);
	emit_store_field(&m->e, REG_LINEAR, RSP_AT);
}

/* The linear address @offset bytes from the page's first one. */
static void load_page_address(struct making *m, enum host_reg to, int64_t offset)
{
	struct host_mem mem = {.base = to, .index = HOST_NONE, .disp = (int32_t)offset};

	emit_load_field(&m->e, to, FAST(rip_page));
	emit_lea(&m->e, to, &mem);
}

static unsigned int gpr_of(unsigned int offset)
{
	return (offset - GPR_AT(0)) / sizeof(uint64_t);
}

/* FS and GS, whose number stands there, are no multiple of a register's size. */
static int is_gpr64(const struct op *op)
{
	return op->kind[0] == OPERAND_REG && op->size == 8 && op->dst % sizeof(uint64_t) == 0 &&
	       op->dst < GPR_AT(16);
}

/* PUSH of memory, which is read before the stack is written. */
static int make_push_memory(struct making *m)
{
	if (m->op->size != 8 || make_linear(m))
		return -1;
	make_check(m, 8, COLD_MISS_READ);
	make_access_mark(m);
	emit_load(&m->e, REG_LINEAR, &guest_memory);
	emit_store_field(&m->e, REG_LINEAR, FAST(scratch));
	begin_push(m);
	emit_load_field(&m->e, REG_SET, FAST(scratch));
	end_push(m, REG_SET);
	return 0;
}

static int make_push(struct making *m)
{
	struct host_insn store = {.opcode = 0xc7, .wide = 1, .memory = &guest_memory};
	enum host_reg host;

	if (m->op->kind[0] == OPERAND_IMM && m->op->size == 8) {
		begin_push(m);
		make_access_mark(m);
		emit_insn(&m->e, &store);
		emit_u32(&m->e, (uint32_t)m->op->imm);
		emit_store_field(&m->e, REG_LINEAR, RSP_AT);
		return 0;
	}
	if (m->op->kind[0] == OPERAND_MEM)
		return make_push_memory(m);
	if (!is_gpr64(m->op))
		return -1;
	host = host_of(gpr_of(m->op->dst));
	begin_push(m);
	if (host == HOST_NONE) {
		emit_load_field(&m->e, REG_SET, m->op->dst);
		host = REG_SET;
	}
	end_push(m, host);
	return 0;
}

/*
 * Load the eight bytes at REG_LINEAR into @to, and set RSP to what follows them and @more bytes.
 * REG_LINEAR is RSP, or for LEAVE RBP; afterwards it is the new RSP.
 */
static void make_pop_to(struct making *m, enum host_reg to, int32_t more)
{
	struct host_mem above = linear_plus(8 + more);

	make_check(m, 8, COLD_MISS_READ);
	make_access_mark(m);
	emit_load(&m->e, to, &guest_memory);
	emit_lea(&m->e, REG_LINEAR, &above);
	emit_store_field(&m->e, REG_LINEAR, RSP_AT);
}

static int make_pop(struct making *m)
{
	enum host_reg host;

	if (!is_gpr64(m->op))
		return -1;
	host = host_of(gpr_of(m->op->dst));
	emit_load_field(&m->e, REG_LINEAR, RSP_AT);
	make_pop_to(m, host == HOST_NONE ? REG_SET : host, 0);
	if (host == HOST_NONE)
		emit_store_field(&m->e, REG_SET, m->op->dst);
	return 0;
}

static int make_leave(struct making *m)
{
	if (m->op->flags & OP_OPSIZE_PREFIX)
		return -1;
	emit_mov(&m->e, REG_LINEAR, host_of(CPU_RBP));
	make_pop_to(m, host_of(CPU_RBP), 0);
	return 0;
}

static int make_ret(struct making *m)
{
	int32_t more = m->op->kind[0] == OPERAND_IMM ? (uint16_t)m->op->imm : 0;

	emit_load_field(&m->e, REG_LINEAR, RSP_AT);
	make_pop_to(m, REG_SET, more);
	emit_mov(&m->e, REG_LINEAR, REG_SET);
	make_dispatch(m);
	m->ended = 1;
	return 0;
}

/* The target of an indirect jump or call in REG_LINEAR: of a register or of memory. */
static int load_target(struct making *m)
{
	const struct op *op = m->op;
	enum host_reg host;

	if (op->kind[0] == OPERAND_MEM) {
		if (make_linear(m))
			return -1;
		make_check(m, 8, COLD_MISS_READ);
		make_access_mark(m);
		emit_load(&m->e, REG_LINEAR, &guest_memory);
		return 0;
	}
	host = host_of(gpr_of(op->dst));
	if (host == HOST_NONE)
		emit_load_field(&m->e, REG_LINEAR, op->dst);
	else
		emit_mov(&m->e, REG_LINEAR, host);
	return 0;
}

static int make_indirect(struct making *m, int is_call)
{
	unsigned int behind = m->unit->op[m->index].offset + m->op->length;

	if (load_target(m))
		return -1;
	if (is_call) {
		emit_store_field(&m->e, REG_LINEAR, FAST(scratch));
		begin_push(m);
		load_page_address(m, REG_SET, behind);
		end_push(m, REG_SET);
		emit_load_field(&m->e, REG_LINEAR, FAST(scratch));
	}
	make_dispatch(m);
	m->ended = 1;
	return 0;
}

static int make_direct(struct making *m, int is_call)
{
	unsigned int behind = m->unit->op[m->index].offset + m->op->length;

	if (is_call) {
		begin_push(m);
		load_page_address(m, REG_SET, behind);
		end_push(m, REG_SET);
	}
	make_go_to(m, m->index, unit_target(m->unit, m->index));
	m->ended = 1;
	return 0;
}

/* Anything but a near one of 64 bits. */
static int is_far(const struct making *m)
{
	ZydisDecodedInstruction insn;

	return m->op->size != 8 || m->op->address_bytes != 8 ||
	       !ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&m->t->decoder, NULL, m->bytes,
							   m->op->length, &insn)) ||
	       insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

#define CASE_JCC(name, code)         \
	case ZYDIS_MNEMONIC_J##name: \
		condition = code;    \
		break;

static int make_jcc(struct making *m)
{
	unsigned int condition;

	switch (m->op->mnemonic) {
		CONDITIONS(CASE_JCC)
	default:
		return 1;
	}
	make_cold(m, emit_jcc(&m->e, condition), COLD_BRANCH);
	return 0;
}

int make_stack_or_jump(struct making *m)
{
	const struct op *op = m->op;

	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		return make_push(m);
	case ZYDIS_MNEMONIC_POP:
		return make_pop(m);
	case ZYDIS_MNEMONIC_LEAVE:
		return make_leave(m);
	case ZYDIS_MNEMONIC_RET:
		return is_far(m) ? -1 : make_ret(m);
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
		if (is_far(m))
			return -1;
		if (op->kind[0] == OPERAND_IMM)
			return make_direct(m, op->mnemonic == ZYDIS_MNEMONIC_CALL);
		return make_indirect(m, op->mnemonic == ZYDIS_MNEMONIC_CALL);
	default:
		return make_jcc(m);
	}
}
