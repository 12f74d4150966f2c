/* Moves, arithmetic and logic: instructions that become themselves, on the host's registers. */
#include "vcpu/run/raise.h"
#include "vcpu/translate/make.h"

#define GPR_NUMBER(offset) (((offset)-GPR_AT(0)) / sizeof(uint64_t))

/* An instruction as it is to be written, and what has to happen round it. */
struct rewrite {
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
	struct host_insn host;
	uint8_t immediate[8];
	unsigned int immediate_bytes;
	/* Guest registers that struct cpu holds, as the fields reg and rm name them. */
	uint8_t reg_cell, rm_cell, reg_is_written, rm_is_written;
	uint8_t memory_bytes; /* of the operand in memory; 0: none */
	uint8_t memory_is_written;
	uint8_t needs_count; /* in CL */
};

#define NO_CELL 0xffu

enum shape {
	SHAPE_NONE,
	SHAPE_REWRITE, /* by ModRM or a register in the opcode */
	SHAPE_COPY,    /* RAX, RDX and flags at most */
	SHAPE_LEA,
	SHAPE_NOTHING,
};

static const uint16_t nothing[] = {
    ZYDIS_MNEMONIC_NOP,		ZYDIS_MNEMONIC_ENDBR64,	   ZYDIS_MNEMONIC_ENDBR32,
    ZYDIS_MNEMONIC_PREFETCHNTA, ZYDIS_MNEMONIC_PREFETCHT0, ZYDIS_MNEMONIC_PREFETCHT1,
    ZYDIS_MNEMONIC_PREFETCHT2,	ZYDIS_MNEMONIC_PREFETCHW,
};
static const uint16_t copied[] = {
    ZYDIS_MNEMONIC_CBW, ZYDIS_MNEMONIC_CWDE, ZYDIS_MNEMONIC_CDQE, ZYDIS_MNEMONIC_CWD,
    ZYDIS_MNEMONIC_CDQ, ZYDIS_MNEMONIC_CQO,  ZYDIS_MNEMONIC_CLC,  ZYDIS_MNEMONIC_STC,
    ZYDIS_MNEMONIC_CMC, ZYDIS_MNEMONIC_LAHF, ZYDIS_MNEMONIC_SAHF,
};
static const uint16_t rewritten[] = {
    ZYDIS_MNEMONIC_MOV,	   ZYDIS_MNEMONIC_MOVZX, ZYDIS_MNEMONIC_MOVSX, ZYDIS_MNEMONIC_MOVSXD,
    ZYDIS_MNEMONIC_MOVNTI, ZYDIS_MNEMONIC_ADD,	 ZYDIS_MNEMONIC_OR,    ZYDIS_MNEMONIC_ADC,
    ZYDIS_MNEMONIC_SBB,	   ZYDIS_MNEMONIC_AND,	 ZYDIS_MNEMONIC_SUB,   ZYDIS_MNEMONIC_XOR,
    ZYDIS_MNEMONIC_CMP,	   ZYDIS_MNEMONIC_TEST,	 ZYDIS_MNEMONIC_INC,   ZYDIS_MNEMONIC_DEC,
    ZYDIS_MNEMONIC_NEG,	   ZYDIS_MNEMONIC_NOT,	 ZYDIS_MNEMONIC_MUL,   ZYDIS_MNEMONIC_IMUL,
    ZYDIS_MNEMONIC_SHL,	   ZYDIS_MNEMONIC_SHR,	 ZYDIS_MNEMONIC_SAR,   ZYDIS_MNEMONIC_ROL,
    ZYDIS_MNEMONIC_ROR,	   ZYDIS_MNEMONIC_RCL,	 ZYDIS_MNEMONIC_RCR,   ZYDIS_MNEMONIC_SHLD,
    ZYDIS_MNEMONIC_SHRD,   ZYDIS_MNEMONIC_XCHG,	 ZYDIS_MNEMONIC_XADD,  ZYDIS_MNEMONIC_CMPXCHG,
    ZYDIS_MNEMONIC_BT,	   ZYDIS_MNEMONIC_BTS,	 ZYDIS_MNEMONIC_BTR,   ZYDIS_MNEMONIC_BTC,
    ZYDIS_MNEMONIC_BSWAP,  ZYDIS_MNEMONIC_BSF,	 ZYDIS_MNEMONIC_BSR,   ZYDIS_MNEMONIC_POPCNT,
    ZYDIS_MNEMONIC_TZCNT,  ZYDIS_MNEMONIC_LZCNT,
};

#define LISTS(list, mnemonic) is_listed(list, sizeof(list) / sizeof((list)[0]), mnemonic)

static int is_listed(const uint16_t *list, unsigned int count, unsigned int mnemonic)
{
	for (unsigned int i = 0; i < count; i++)
		if (list[i] == mnemonic)
			return 1;
	return 0;
}

static enum shape shape_of(unsigned int mnemonic)
{
	if (mnemonic == ZYDIS_MNEMONIC_LEA)
		return SHAPE_LEA;
	if (LISTS(nothing, mnemonic))
		return SHAPE_NOTHING;
	if (LISTS(copied, mnemonic))
		return SHAPE_COPY;
	if (LISTS(rewritten, mnemonic) ||
	    (mnemonic >= ZYDIS_MNEMONIC_CMOVB && mnemonic <= ZYDIS_MNEMONIC_CMOVZ) ||
	    (mnemonic >= ZYDIS_MNEMONIC_SETB && mnemonic <= ZYDIS_MNEMONIC_SETZ &&
	     mnemonic != ZYDIS_MNEMONIC_SETSSBSY))
		return SHAPE_REWRITE;
	return SHAPE_NONE;
}

static int is_high_byte(ZydisRegister reg)
{
	return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

/* The number of a general register, 0 .. 15; -1: none, or RIP, or the upper byte of RCX. */
static int gpr_number(ZydisRegister reg)
{
	ZydisRegister whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);

	if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15 || reg == ZYDIS_REGISTER_CH)
		return -1;
	return whole - ZYDIS_REGISTER_RAX;
}

/* A register that a field names: as the host has it, or in @temporary with the cell noted. */
static int place_register(const ZydisDecodedOperand *operand, enum host_reg temporary,
			  uint8_t *field, uint8_t *cell)
{
	int number = gpr_number(operand->reg.value);
	enum host_reg host;

	if (number < 0)
		return -1;
	host = host_of((unsigned int)number);
	if (is_high_byte(operand->reg.value)) {
		*field = (uint8_t)(4 + number);
		return host == (enum host_reg)number ? 0 : -1;
	}
	*field = host;
	if (host == HOST_NONE) {
		*field = temporary;
		*cell = (uint8_t)number;
	}
	return 0;
}

static int is_written(const ZydisDecodedOperand *operand)
{
	return (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
}

static int take_operand(struct rewrite *r, const ZydisDecodedOperand *operand)
{
	switch (operand->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		r->reg_is_written = (uint8_t)is_written(operand);
		return place_register(operand, REG_SET, &r->host.reg, &r->reg_cell);
	case ZYDIS_OPERAND_ENCODING_OPCODE:
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			r->memory_bytes = (uint8_t)(operand->size / 8);
			r->memory_is_written = (uint8_t)is_written(operand);
			return operand->size / 8 > 8 ? -1 : 0;
		}
		r->rm_is_written = (uint8_t)is_written(operand);
		return place_register(operand, REG_LINEAR, &r->host.rm, &r->rm_cell);
	default:
		if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return 0;
		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
			return -1; /* an address of 64 bits, or a string */
		if (operand->reg.value == ZYDIS_REGISTER_CL)
			r->needs_count = 1;
		/* Hidden and in the opcode: RAX and RDX are where the host has them. */
		return gpr_number(operand->reg.value) == CPU_RAX ||
			       gpr_number(operand->reg.value) == CPU_RDX || r->needs_count
			   ? 0
			   : -1;
	}
}

static int has_high_byte(const struct rewrite *r)
{
	for (unsigned int i = 0; i < r->insn.operand_count_visible; i++)
		if (r->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    is_high_byte(r->operand[i].reg.value))
			return 1;
	return 0;
}

/* SPL .. DIL want a REX, AH .. BH none at all. */
static int settle_bytes(struct rewrite *r)
{
	if (has_high_byte(r))
		return r->memory_bytes || r->host.reg & 8 || r->host.rm & 8 || r->host.wide ? -1
											    : 0;
	for (unsigned int i = 0; i < r->insn.operand_count_visible; i++)
		if (r->operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER && r->operand[i].size == 8)
			r->host.force_rex = 1;
	return 0;
}

static void take_prefixes(struct rewrite *r)
{
	for (unsigned int i = 0; i < r->insn.raw.prefix_count; i++) {
		uint8_t value = r->insn.raw.prefixes[i].value;

		if (value == 0x66)
			r->host.has_opsize = 1;
		else if (value == 0xf0)
			r->host.has_lock = 1;
		else if ((value == 0xf2 || value == 0xf3) &&
			 r->insn.raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			r->host.repeat = value;
	}
}

static int take_opcode(struct rewrite *r, const uint8_t *bytes)
{
	const ZydisDecodedInstruction *insn = &r->insn;

	switch (insn->opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT:
		r->host.map = MAP_NONE;
		break;
	case ZYDIS_OPCODE_MAP_0F:
		r->host.map = MAP_0F;
		break;
	default:
		return -1;
	}
	r->host.opcode = insn->opcode;
	r->host.reg = insn->raw.modrm.reg; /* an extension, unless an operand says otherwise */
	r->host.wide = insn->raw.rex.W;
	r->host.no_modrm = !(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM);
	r->host.rm = insn->opcode & 7; /* the same */
	for (unsigned int i = 0; i < 2; i++) {
		unsigned int size = insn->raw.imm[i].size / 8;

		if (r->immediate_bytes + size > sizeof(r->immediate))
			return -1;
		memcpy(r->immediate + r->immediate_bytes, bytes + insn->raw.imm[i].offset, size);
		r->immediate_bytes += size;
	}
	return 0;
}

/* Take the instruction apart. Nonzero: it is not one of those. */
static int rewrite_begin(struct making *m, struct rewrite *r)
{
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&m->t->decoder, m->bytes, m->op->length, &r->insn,
						 r->operand)) ||
	    r->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    r->insn.mnemonic != m->op->mnemonic)
		return -1; /* LZCNT and TZCNT may mean what they once meant */
	take_prefixes(r);
	if (take_opcode(r, m->bytes))
		return -1;
	r->reg_cell = r->rm_cell = NO_CELL;
	for (unsigned int i = 0; i < r->insn.operand_count; i++) {
		const ZydisDecodedOperand *operand = &r->operand[i];

		if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (operand->reg.value == ZYDIS_REGISTER_RFLAGS ||
		     operand->reg.value == ZYDIS_REGISTER_EFLAGS ||
		     operand->reg.value == ZYDIS_REGISTER_FLAGS))
			continue;
		if (take_operand(r, operand))
			return -1;
	}
	return settle_bytes(r);
}

/* A bit offset in a register reaches beyond the operand in memory. */
static int is_bit_string(const struct rewrite *r)
{
	return r->memory_bytes && r->insn.operand_count_visible > 1 &&
	       r->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       (r->insn.mnemonic == ZYDIS_MNEMONIC_BT || r->insn.mnemonic == ZYDIS_MNEMONIC_BTS ||
		r->insn.mnemonic == ZYDIS_MNEMONIC_BTR || r->insn.mnemonic == ZYDIS_MNEMONIC_BTC);
}

static void load_count(struct making *m)
{
	struct host_insn mov = {.opcode = 0x8b, .reg = HOST_RCX, .rm = host_of(CPU_RCX)};

	emit_insn(&m->e, &mov);
}

static void emit_rewritten(struct making *m, const struct rewrite *r)
{
	emit_insn(&m->e, &r->host);
	emit_bytes(&m->e, r->immediate, r->immediate_bytes);
}

/* Locked operations of part of a line only: others split the bus lock. */
static void check_alignment(struct making *m, const struct rewrite *r)
{
	if (r->memory_bytes == 1)
		return;
	emit_pext_field(&m->e, REG_TAG, REG_LINEAR, FAST(low_bits[__builtin_ctz(r->memory_bytes)]));
	make_cold(m, emit_jmp_unless_rcx_zero(&m->e), COLD_OP);
}

static int make_in_memory(struct making *m, struct rewrite *r)
{
	struct host_mem there = {.base = REG_LINEAR, .index = REG_TAG};
	struct host_mem sum = there;
	int is_atomic = r->host.has_lock || r->insn.mnemonic == ZYDIS_MNEMONIC_XCHG;

	if (is_bit_string(r) || make_linear(m))
		return -1;
	if (is_atomic)
		check_alignment(m, r);
	make_check(m, r->memory_bytes, r->memory_is_written ? COLD_MISS_WRITE : COLD_MISS_READ);
	if (r->needs_count) {
		emit_lea(&m->e, REG_LINEAR, &sum);
		load_count(m);
		there.index = HOST_NONE;
	}
	if (r->reg_cell != NO_CELL)
		emit_load_field(&m->e, REG_SET, GPR_AT(r->reg_cell));
	r->host.memory = &there;
	make_access_mark(m);
	emit_rewritten(m, r);
	if (r->reg_cell != NO_CELL && r->reg_is_written)
		emit_store_field(&m->e, REG_SET, GPR_AT(r->reg_cell));
	return 0;
}

static int make_in_registers(struct making *m, struct rewrite *r)
{
	if (r->host.has_lock)
		return -1;
	if (r->reg_cell != NO_CELL)
		emit_load_field(&m->e, REG_SET, GPR_AT(r->reg_cell));
	if (r->rm_cell != NO_CELL)
		emit_load_field(&m->e, REG_LINEAR, GPR_AT(r->rm_cell));
	if (r->needs_count)
		load_count(m);
	emit_rewritten(m, r);
	if (r->reg_cell != NO_CELL && r->reg_is_written)
		emit_store_field(&m->e, REG_SET, GPR_AT(r->reg_cell));
	if (r->rm_cell != NO_CELL && r->rm_is_written)
		emit_store_field(&m->e, REG_LINEAR, GPR_AT(r->rm_cell));
	return 0;
}

static int make_rewritten(struct making *m)
{
	struct rewrite r = {0};

	if (rewrite_begin(m, &r))
		return -1;
	return r.memory_bytes ? make_in_memory(m, &r) : make_in_registers(m, &r);
}

/* Take the cold way when REG_TAG is zero. */
static void cold_if_zero(struct making *m)
{
	emit_bytes(&m->e, "\xe3\x02\xeb\x05", 4); /* jrcxz 1f; jmp 2f; 1: jmp cold; 2: */
	make_cold(m, emit_jmp(&m->e), COLD_OP);
}

static void emit_move_sized(struct making *m, enum host_reg to, enum host_reg from, int wide)
{
	struct host_insn mov = {.opcode = 0x8b, .reg = to, .rm = from, .wide = (uint8_t)wide};

	emit_insn(&m->e, &mov);
}

/*
 * DIV of 32 and 64 bits whose upper half is zero and whose divisor is not: it raises no #DE, as
 * the quotient is at most the lower half.
 */
static int make_div(struct making *m)
{
	struct host_mem there = {.base = REG_LINEAR, .index = REG_TAG};
	struct rewrite r = {0};

	if (m->op->size < 4 || rewrite_begin(m, &r))
		return -1;
	if (r.memory_bytes) {
		struct host_insn load = {
		    .opcode = 0x8b, .reg = REG_SET, .memory = &there, .wide = r.host.wide};

		if (make_linear(m))
			return -1;
		make_check(m, r.memory_bytes, COLD_MISS_READ);
		make_access_mark(m);
		emit_insn(&m->e, &load);
		r.host.rm = REG_SET;
	} else if (r.rm_cell != NO_CELL) {
		emit_load_field(&m->e, REG_LINEAR, GPR_AT(r.rm_cell));
	}
	emit_move_sized(m, REG_TAG, HOST_RDX, r.host.wide);
	make_cold(m, emit_jmp_unless_rcx_zero(&m->e), COLD_OP);
	emit_move_sized(m, REG_TAG, r.host.rm, r.host.wide);
	cold_if_zero(m);
	emit_rewritten(m, &r);
	return 0;
}

/* MOV from a segment register: 32 bits and more are the selector and zeros. */
static int make_from_segment(struct making *m)
{
	uint64_t at = offsetof(struct cpu, s.seg) + m->op->src * sizeof(struct cpu_segment) +
		      offsetof(struct cpu_segment, selector);
	struct host_mem selector = {
	    .base = REG_CPU, .index = HOST_NONE, .disp = (int32_t)at - CPU_BIAS};
	enum host_reg host = host_of(GPR_NUMBER(m->op->dst));
	struct host_insn movzx = {.map = MAP_0F, .opcode = 0xb7, .reg = host, .memory = &selector};

	if (m->op->kind[0] != OPERAND_REG || m->op->size < 4)
		return -1;
	if (host == HOST_NONE)
		movzx.reg = REG_SET;
	emit_insn(&m->e, &movzx);
	if (host == HOST_NONE)
		emit_store_field(&m->e, REG_SET, m->op->dst);
	return 0;
}

static int is_from_segment(const struct making *m)
{
	const uint8_t *bytes = m->bytes;

	/* 66 would make it one of 16 bits. */
	if (*bytes >> 4 == 4)
		bytes++;
	return *bytes == 0x8c;
}

/* The interpreter takes the instruction where the byte at @offset of struct cpu is not 0. */
static void make_refused_by(struct making *m, size_t offset)
{
	struct host_mem byte = {
	    .base = REG_CPU, .index = HOST_NONE, .disp = (int32_t)offset - CPU_BIAS};
	struct host_insn movzx = {.map = MAP_0F, .opcode = 0xb6, .reg = REG_TAG, .memory = &byte};

	emit_insn(&m->e, &movzx);
	make_cold(m, emit_jmp_unless_rcx_zero(&m->e), COLD_OP);
}

/* L1 may intercept L2's; a unit serves both. The host's own tells its processor of the loop. */
static int make_pause(struct making *m)
{
	static const uint8_t pause[] = {0xf3, 0x90};

	make_refused_by(m, offsetof(struct cpu, svm.in_guest_mode));
	emit_bytes(&m->e, pause, sizeof(pause));
	return 0;
}

/* At CPL 0, which the mode of a unit leaves open. */
static int make_swapgs(struct making *m)
{
	const uint64_t base = offsetof(struct cpu, s.seg[CPU_GS].base);
	const uint64_t kernel_base = offsetof(struct cpu, s.kernel_gs_base);

	if (m->unit->mode == TLB_USER)
		return -1;
	make_refused_by(m, offsetof(struct cpu, cpl));
	emit_load_field(&m->e, REG_TAG, base);
	emit_load_field(&m->e, REG_LINEAR, kernel_base);
	emit_store_field(&m->e, REG_TAG, kernel_base);
	emit_store_field(&m->e, REG_LINEAR, base);
	return 0;
}

static int make_lea(struct making *m)
{
	enum host_reg host = host_of(GPR_NUMBER(m->op->dst));
	struct host_mem mem;
	struct host_insn lea = {.opcode = 0x8d, .reg = host, .memory = &mem};

	if (m->op->size < 4 || make_address(m, &mem))
		return -1;
	if (host == HOST_NONE)
		lea.reg = REG_LINEAR;
	lea.wide = m->op->size == 8;
	emit_insn(&m->e, &lea);
	if (host == HOST_NONE)
		emit_store_field(&m->e, REG_LINEAR, m->op->dst);
	return 0;
}

int make_operation(struct making *m)
{
	int result;

	/* Hidden by CPUID, or unknown. */
	if (m->op->run == exec_undefined || m->op->run == exec_unknown)
		return -1;
	result = make_stack_or_jump(m);
	if (result <= 0)
		return result;
	result = make_vector(m);
	if (result <= 0)
		return result;
	if (m->op->mnemonic == ZYDIS_MNEMONIC_DIV)
		return make_div(m);
	if (m->op->mnemonic == ZYDIS_MNEMONIC_SWAPGS)
		return make_swapgs(m);
	if (m->op->mnemonic == ZYDIS_MNEMONIC_PAUSE)
		return make_pause(m);
	if (m->op->mnemonic == ZYDIS_MNEMONIC_MOV && is_from_segment(m))
		return make_from_segment(m);
	switch (shape_of(m->op->mnemonic)) {
	case SHAPE_REWRITE:
		return make_rewritten(m);
	case SHAPE_COPY:
		emit_bytes(&m->e, m->bytes, m->op->length);
		return 0;
	case SHAPE_LEA:
		return make_lea(m);
	case SHAPE_NOTHING:
		return 0;
	default:
		return -1;
	}
}
