/*
 * SSE2's moves and integer arithmetic. The guest's first registers are in the host's, and each one
 * that is written is stored to struct cpu at once, so that whatever leaves translated code finds it
 * there; the others are loaded where they are read.
 */
#include "vcpu/translate/make.h"

/* The lower ones count what retires. */
#define XMM_TO 8u
#define XMM_FROM 9u
#define VECTOR_BYTES 16u

enum vector_shape {
	VECTOR_MOVE,	/* of 16 bytes, from anywhere */
	VECTOR_ALIGNED, /* the same; #GP where memory is not aligned */
	VECTOR_BINARY,	/* both operands become the first */
	VECTOR_SHUFFLE, /* the second and an immediate do */
	VECTOR_SHIFT,	/* the first and an immediate do */
	VECTOR_MASK,	/* one bit of each byte, to a general register */
	VECTOR_ELEMENT, /* 4 or 8 bytes, and zeros in a vector register */
};

struct vector_row {
	uint16_t mnemonic;
	uint8_t shape, prefix, opcode, extension;
};

#define ROW(name, shape, prefix, opcode)                                 \
	{                                                                \
		ZYDIS_MNEMONIC_##name, VECTOR_##shape, prefix, opcode, 0 \
	}
#define INTEGER(name, opcode) ROW(name, BINARY, 0x66, opcode)
#define SHIFT(name, opcode, extension)                                       \
	{                                                                    \
		ZYDIS_MNEMONIC_##name, VECTOR_SHIFT, 0x66, opcode, extension \
	}

/* clang-format off */
static const struct vector_row rows[] = {
    ROW(MOVDQU, MOVE, 0, 0), ROW(MOVUPS, MOVE, 0, 0), ROW(MOVUPD, MOVE, 0, 0),
    ROW(MOVDQA, ALIGNED, 0, 0), ROW(MOVAPS, ALIGNED, 0, 0), ROW(MOVAPD, ALIGNED, 0, 0),
    ROW(MOVD, ELEMENT, 0, 4), ROW(MOVQ, ELEMENT, 0, 8), ROW(PMOVMSKB, MASK, 0x66, 0xd7),
    ROW(ANDPS, BINARY, 0, 0x54), ROW(ANDNPS, BINARY, 0, 0x55), ROW(ORPS, BINARY, 0, 0x56),
    ROW(XORPS, BINARY, 0, 0x57), INTEGER(ANDPD, 0x54), INTEGER(ANDNPD, 0x55),
    INTEGER(ORPD, 0x56), INTEGER(XORPD, 0x57),
    INTEGER(PUNPCKLBW, 0x60), INTEGER(PUNPCKLWD, 0x61), INTEGER(PUNPCKLDQ, 0x62),
    INTEGER(PACKSSWB, 0x63), INTEGER(PCMPGTB, 0x64), INTEGER(PCMPGTW, 0x65),
    INTEGER(PCMPGTD, 0x66), INTEGER(PACKUSWB, 0x67), INTEGER(PUNPCKHBW, 0x68),
    INTEGER(PUNPCKHWD, 0x69), INTEGER(PUNPCKHDQ, 0x6a), INTEGER(PACKSSDW, 0x6b),
    INTEGER(PUNPCKLQDQ, 0x6c), INTEGER(PUNPCKHQDQ, 0x6d), ROW(PSHUFD, SHUFFLE, 0x66, 0x70),
    INTEGER(PCMPEQB, 0x74), INTEGER(PCMPEQW, 0x75), INTEGER(PCMPEQD, 0x76),
    INTEGER(PADDQ, 0xd4), INTEGER(PMULLW, 0xd5), INTEGER(PSUBUSB, 0xd8), INTEGER(PSUBUSW, 0xd9),
    INTEGER(PMINUB, 0xda), INTEGER(PAND, 0xdb), INTEGER(PADDUSB, 0xdc), INTEGER(PADDUSW, 0xdd),
    INTEGER(PMAXUB, 0xde), INTEGER(PANDN, 0xdf), INTEGER(PMINSW, 0xea), INTEGER(POR, 0xeb),
    INTEGER(PMAXSW, 0xee), INTEGER(PXOR, 0xef), INTEGER(PMULUDQ, 0xf4), INTEGER(PMADDWD, 0xf5),
    INTEGER(PSADBW, 0xf6), INTEGER(PSUBB, 0xf8), INTEGER(PSUBW, 0xf9), INTEGER(PSUBD, 0xfa),
    INTEGER(PSUBQ, 0xfb), INTEGER(PADDB, 0xfc), INTEGER(PADDW, 0xfd), INTEGER(PADDD, 0xfe),
    SHIFT(PSRLW, 0x71, 2), SHIFT(PSRAW, 0x71, 4), SHIFT(PSLLW, 0x71, 6), SHIFT(PSRLD, 0x72, 2),
    SHIFT(PSRAD, 0x72, 4), SHIFT(PSLLD, 0x72, 6), SHIFT(PSRLQ, 0x73, 2), SHIFT(PSRLDQ, 0x73, 3),
    SHIFT(PSLLQ, 0x73, 6), SHIFT(PSLLDQ, 0x73, 7),
};
/* clang-format on */

static const struct vector_row *row_of(unsigned int mnemonic)
{
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].mnemonic == mnemonic)
			return &rows[i];
	return NULL;
}

/* Where make_check() has found memory. */
static const struct host_mem found = {.base = REG_LINEAR, .index = REG_TAG};

static uint64_t operand_at(const struct making *m, unsigned int which)
{
	return which ? m->op->src : m->op->dst;
}

static int is_general(const struct making *m, unsigned int which)
{
	return m->op->kind[which] == OPERAND_REG && operand_at(m, which) < GPR_AT(16);
}

/* MMX registers are elsewhere. */
static int is_vector(const struct making *m, unsigned int which)
{
	return m->op->kind[which] == OPERAND_REG &&
	       operand_at(m, which) >= offsetof(struct cpu, s.xmm) &&
	       operand_at(m, which) < offsetof(struct cpu, s.ymm_high);
}

/* [66 or F3] 0F @opcode, with @reg and @memory or, without, @rm. */
struct vector_insn {
	uint8_t prefix, opcode, reg, rm, wide;
	const struct host_mem *memory;
};

static void emit_vector(struct making *m, const struct vector_insn *vector)
{
	struct host_insn insn = {
	    .map = MAP_0F,
	    .opcode = vector->opcode,
	    .reg = vector->reg,
	    .rm = vector->rm,
	    .wide = vector->wide,
	    .memory = vector->memory,
	    .has_opsize = vector->prefix == 0x66,
	    .repeat = vector->prefix == 0x66 ? 0 : vector->prefix,
	};

	emit_insn(&m->e, &insn);
}

/* MOVDQU, which takes any address: what has to be aligned was checked. */
static void emit_move16(struct making *m, unsigned int xmm, const struct host_mem *at, int is_store)
{
	struct vector_insn movdqu = {
	    .prefix = 0xf3, .opcode = is_store ? 0x7f : 0x6f, .reg = (uint8_t)xmm, .memory = at};

	emit_vector(m, &movdqu);
}

/* The host's register that a vector operand is in, or @temporary for those that have none. */
static uint8_t home_of(const struct making *m, unsigned int which, uint8_t temporary)
{
	uint64_t number = (operand_at(m, which) - VECTOR_AT(0)) / VECTOR_BYTES;

	return number < XMM_GUEST_COUNT ? (uint8_t)(XMM_GUEST + number) : temporary;
}

/* The host's register with a vector operand: @temporary, into which it is loaded, or its own. */
static uint8_t make_vector_read(struct making *m, unsigned int which, uint8_t temporary)
{
	uint8_t host = home_of(m, which, temporary);

	if (host == temporary)
		emit_load_vector(&m->e, host, operand_at(m, which));
	return host;
}

/* Find the memory operand, so that the instruction behind this one may access it. */
static int make_found(struct making *m, unsigned int size_bytes, int is_aligned,
		      enum cold_kind miss)
{
	if (make_linear(m))
		return -1;
	if (is_aligned) {
		emit_pext_field(&m->e, REG_TAG, REG_LINEAR,
				FAST(low_bits[__builtin_ctz(size_bytes)]));
		make_cold(m, emit_jmp_unless_rcx_zero(&m->e), COLD_OP);
	}
	make_check(m, size_bytes, miss);
	make_access_mark(m);
	return 0;
}

/* The host's register with the 16 bytes of operand @which, *@host, which is the register to load to
 * before. */
static int make_source(struct making *m, unsigned int which, uint8_t *host, int is_aligned)
{
	if (is_vector(m, which)) {
		*host = make_vector_read(m, which, *host);
		return 0;
	}
	if (m->op->kind[which] != OPERAND_MEM || m->op->mem_size != VECTOR_BYTES ||
	    make_found(m, VECTOR_BYTES, is_aligned, COLD_MISS_READ))
		return -1;
	emit_move16(m, *host, &found, 0);
	return 0;
}

static int make_move(struct making *m, int is_aligned)
{
	uint8_t host = XMM_FROM;

	if (is_vector(m, 0)) {
		uint8_t to = home_of(m, 0, XMM_FROM);
		struct vector_insn movdqa = {.prefix = 0x66, .opcode = 0x6f, .reg = to};

		if (!is_vector(m, 1))
			host = to; /* unchanged if the load faults */
		if (make_source(m, 1, &host, is_aligned))
			return -1;
		movdqa.rm = host;
		if (host != to)
			emit_vector(m, &movdqa);
		emit_store_vector(&m->e, to, m->op->dst);
		return 0;
	}
	if (make_source(m, 1, &host, is_aligned) || m->op->mem_size != VECTOR_BYTES ||
	    make_found(m, VECTOR_BYTES, is_aligned, COLD_MISS_WRITE))
		return -1;
	emit_move16(m, host, &found, 1);
	return 0;
}

/* The first operand becomes what the instruction makes of both. */
static int make_binary(struct making *m, const struct vector_row *row)
{
	uint8_t from = XMM_FROM, to;
	struct vector_insn insn = {.prefix = row->prefix, .opcode = row->opcode};

	if (!is_vector(m, 0) || make_source(m, 1, &from, 1))
		return -1;
	to = home_of(m, 0, XMM_TO);
	if (row->shape == VECTOR_BINARY)
		to = make_vector_read(m, 0, XMM_TO);
	insn.reg = to;
	insn.rm = from;
	emit_vector(m, &insn);
	if (row->shape == VECTOR_SHUFFLE)
		emit_u8(&m->e, m->bytes[m->op->length - 1]);
	emit_store_vector(&m->e, to, m->op->dst);
	return 0;
}

/* By an immediate; the other shifts stay with the interpreter. */
static int make_shift(struct making *m, const struct vector_row *row)
{
	struct vector_insn insn = {
	    .prefix = row->prefix, .opcode = row->opcode, .reg = row->extension};

	if (!is_vector(m, 0) || m->op->kind[1] != OPERAND_IMM)
		return -1;
	insn.rm = make_vector_read(m, 0, XMM_TO);
	emit_vector(m, &insn);
	emit_u8(&m->e, m->bytes[m->op->length - 1]);
	emit_store_vector(&m->e, insn.rm, m->op->dst);
	return 0;
}

/* The host's register for operand @which: REG_SET for what struct cpu holds, and where the operand
 * is no general register. */
static enum host_reg general_register(const struct making *m, unsigned int which)
{
	enum host_reg host = HOST_NONE;

	if (is_general(m, which))
		host = host_of((unsigned int)(operand_at(m, which) / sizeof(uint64_t)));
	return host == HOST_NONE ? REG_SET : host;
}

static void make_general_done(struct making *m, enum host_reg host)
{
	if (host == REG_SET)
		emit_store_field(&m->e, REG_SET, m->op->dst);
}

static int make_mask(struct making *m, const struct vector_row *row)
{
	enum host_reg host = general_register(m, 0);
	struct vector_insn insn = {.prefix = row->prefix, .opcode = row->opcode, .reg = host};

	if (!is_general(m, 0) || !is_vector(m, 1))
		return -1;
	insn.rm = make_vector_read(m, 1, XMM_FROM);
	emit_vector(m, &insn);
	make_general_done(m, host);
	return 0;
}

/* To a vector register, from a general one, memory, or the lower half of a vector. */
static int make_element_in(struct making *m, unsigned int size_bytes)
{
	enum host_reg host = general_register(m, 1);
	uint8_t to = home_of(m, 0, XMM_TO);
	struct vector_insn movd = {
	    .prefix = 0x66, .opcode = 0x6e, .reg = to, .rm = host, .wide = size_bytes == 8};

	if (is_vector(m, 1)) {
		emit_load_xmm(&m->e, to, m->op->src);
	} else if (is_general(m, 1)) {
		if (host == REG_SET)
			emit_load_field(&m->e, REG_SET, m->op->src);
		emit_vector(m, &movd);
	} else {
		if (m->op->mem_size != size_bytes || make_found(m, size_bytes, 0, COLD_MISS_READ))
			return -1;
		movd.memory = &found;
		emit_vector(m, &movd);
	}
	emit_store_vector(&m->e, to, m->op->dst);
	return 0;
}

/* From a vector register to a general one or to memory. */
static int make_element_out(struct making *m, unsigned int size_bytes)
{
	enum host_reg host = general_register(m, 0);
	struct vector_insn movd = {
	    .prefix = 0x66, .opcode = 0x7e, .rm = host, .wide = size_bytes == 8};

	if (!is_vector(m, 1))
		return -1;
	movd.reg = make_vector_read(m, 1, XMM_FROM);
	if (is_general(m, 0)) {
		emit_vector(m, &movd);
		make_general_done(m, host);
		return 0;
	}
	if (m->op->kind[0] != OPERAND_MEM || m->op->mem_size != size_bytes ||
	    make_found(m, size_bytes, 0, COLD_MISS_WRITE))
		return -1;
	movd.memory = &found;
	emit_vector(m, &movd);
	return 0;
}

int make_vector(struct making *m)
{
	const struct vector_row *row = row_of(m->op->mnemonic);

	if (!row)
		return 1;
	if (!m->vectors_checked) {
		emit_load_field(&m->e, REG_TAG, FAST(vectors_refused));
		make_cold(m, emit_jmp_unless_rcx_zero(&m->e), COLD_OP);
	}
	m->vectors_checked = 1;
	switch ((enum vector_shape)row->shape) {
	case VECTOR_MOVE:
		return make_move(m, 0);
	case VECTOR_ALIGNED:
		return make_move(m, 1);
	case VECTOR_SHIFT:
		return make_shift(m, row);
	case VECTOR_MASK:
		return make_mask(m, row);
	case VECTOR_ELEMENT:
		return is_vector(m, 0) ? make_element_in(m, row->opcode)
				       : make_element_out(m, row->opcode);
	default:
		return make_binary(m, row);
	}
}
