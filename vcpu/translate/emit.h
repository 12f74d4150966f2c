/* Writing machine code: bytes, and instructions by their fields. */
#ifndef QUIRE_VCPU_TRANSLATE_EMIT_H
#define QUIRE_VCPU_TRANSLATE_EMIT_H

#include <stdint.h>

enum host_reg {
	HOST_RAX,
	HOST_RCX,
	HOST_RDX,
	HOST_RBX,
	HOST_RSP,
	HOST_RBP,
	HOST_RSI,
	HOST_RDI,
	HOST_R8,
	HOST_R9,
	HOST_R10,
	HOST_R11,
	HOST_R12,
	HOST_R13,
	HOST_R14,
	HOST_R15,
	HOST_NONE = 0xff,
};

/*
 * How registers are used. Three are free between two guest instructions. The pointer's value
 * is 12 modulo 64, so that SHRX by it shifts by the bits of a page offset.
 */
#define REG_CPU HOST_R9
#define REG_TAG HOST_RCX
#define REG_LINEAR HOST_R10
#define REG_SET HOST_R11
#define XMM_RETIRED 0u
#define XMM_NUMBERS 7u /* XMM1 holds 1, and so on up to this */
/* From this one on, the guest's first vector registers, as struct cpu has them as well. */
#define XMM_GUEST 10u
#define XMM_GUEST_COUNT 6u
#define CPU_BIAS 12

/* Where code is written; at .exec_delta from it, it runs. */
struct emit {
	uint8_t *at, *end;
	int64_t exec_delta;
	uint8_t is_full;
};

enum opcode_map { MAP_NONE, MAP_0F, MAP_0F38, MAP_0F3A };

/* [base + index << scale + disp]; base or index may be HOST_NONE. */
struct host_mem {
	uint8_t base, index, scale;
	int32_t disp;
};

/* One instruction without immediate. */
struct host_insn {
	uint8_t map, opcode;
	uint8_t reg; /* or the opcode's extension */
	uint8_t rm;  /* a register, unless @memory */
	uint8_t wide;
	uint8_t has_lock, has_opsize, repeat; /* prefixes; @repeat is F2, F3 or 0 */
	uint8_t force_rex;		      /* SPL .. DIL */
	uint8_t no_modrm;		      /* the register is in the opcode: @rm */
	const struct host_mem *memory;
};

void emit_bytes(struct emit *e, const void *bytes, unsigned int count);
void emit_u8(struct emit *e, uint8_t value);
void emit_u32(struct emit *e, uint32_t value);
void emit_insn(struct emit *e, const struct host_insn *insn);

/* None of these changes flags. */
void emit_mov(struct emit *e, enum host_reg to, enum host_reg from);
void emit_mov_imm(struct emit *e, enum host_reg to, uint64_t value);
void emit_load(struct emit *e, enum host_reg to, const struct host_mem *mem);
void emit_store(struct emit *e, enum host_reg from, const struct host_mem *mem);
void emit_load_field(struct emit *e, enum host_reg to, uint64_t offset);
void emit_store_field(struct emit *e, enum host_reg from, uint64_t offset);
void emit_store_field_imm(struct emit *e, uint64_t offset, uint32_t value);
void emit_lea(struct emit *e, enum host_reg to, const struct host_mem *mem);
/* to = from >> 12, to = from << 12 */
void emit_shr_page(struct emit *e, enum host_reg to, enum host_reg from);
void emit_shl_page(struct emit *e, enum host_reg to, enum host_reg from);
/* The bits of @from that the 64-bit field at @offset selects, together. */
void emit_pext_field(struct emit *e, enum host_reg to, enum host_reg from, uint64_t offset);
/* [set << 3 + field] */
void emit_load_table(struct emit *e, enum host_reg to, enum host_reg set, uint64_t offset);

/* XMM_RETIRED += the number at @offset, or one of 1 .. XMM_NUMBERS. */
void emit_add_retired(struct emit *e, uint64_t offset);
void emit_add_retired_few(struct emit *e, unsigned int number);
/* The lower half of an XMM register from there, and to there. */
void emit_load_xmm(struct emit *e, unsigned int xmm, uint64_t offset);
void emit_store_xmm(struct emit *e, unsigned int xmm, uint64_t offset);

/* All of an XMM register from there, and to there. */
void emit_load_vector(struct emit *e, unsigned int xmm, uint64_t offset);
void emit_store_vector(struct emit *e, unsigned int xmm, uint64_t offset);

/* A jump of 32 bits; the result is where its distance stands. */
uint8_t *emit_jmp(struct emit *e);
uint8_t *emit_jcc(struct emit *e, unsigned int condition);
/* Let the jump at @distance lead to @target, both where they are written. */
void emit_aim(uint8_t *distance, const uint8_t *target);
/* Go on behind the jump that follows when RCX is zero; else take it. */
uint8_t *emit_jmp_unless_rcx_zero(struct emit *e);

#endif
