/* Writing machine code: bytes, and instructions by their fields. */
#include "vcpu/translate/emit.h"

#include <string.h>

#define REX 0x40u
#define REX_W 8u
#define REX_R 4u
#define REX_X 2u
#define REX_B 1u

enum vex_prefix { VEX_66 = 1, VEX_F3 = 2, VEX_F2 = 3 };

void emit_bytes(struct emit *e, const void *bytes, unsigned int count)
{
	if (e->end - e->at < (int64_t)count) {
		e->is_full = 1;
		return;
	}
	memcpy(e->at, bytes, count);
	e->at += count;
}

void emit_u8(struct emit *e, uint8_t value)
{
	emit_bytes(e, &value, 1);
}

void emit_u32(struct emit *e, uint32_t value)
{
	emit_bytes(e, &value, 4);
}

static int fits_byte(int32_t value)
{
	return value >= -128 && value < 128;
}

/* ModRM, SIB and displacement; RSP and R12 as a base want a SIB, RBP and R13 a displacement. */
static void emit_memory(struct emit *e, unsigned int reg, const struct host_mem *mem)
{
	unsigned int base = mem->base & 7, mod;
	int needs_sib = mem->index != HOST_NONE || mem->base == HOST_NONE || base == HOST_RSP;

	if (mem->base == HOST_NONE) {
		base = HOST_RBP;
		mod = 0;
	} else if (!mem->disp && base != HOST_RBP) {
		mod = 0;
	} else {
		mod = fits_byte(mem->disp) ? 1 : 2;
	}
	emit_u8(e, mod << 6 | (reg & 7) << 3 | (needs_sib ? 4 : base));
	if (needs_sib)
		emit_u8(e, mem->scale << 6 | (mem->index == HOST_NONE ? 4 : mem->index & 7) << 3 |
			       base);
	if (mod == 1)
		emit_u8(e, (uint8_t)mem->disp);
	else if (mod == 2 || mem->base == HOST_NONE)
		emit_u32(e, (uint32_t)mem->disp);
}

static unsigned int rex_of(const struct host_insn *insn)
{
	const struct host_mem *mem = insn->memory;
	unsigned int rex = insn->wide ? REX_W : 0;

	if (insn->reg & 8)
		rex |= REX_R;
	if (mem && mem->index != HOST_NONE && (mem->index & 8))
		rex |= REX_X;
	if (mem ? mem->base != HOST_NONE && (mem->base & 8) : insn->rm & 8)
		rex |= REX_B;
	return rex || insn->force_rex ? rex | REX : 0;
}

void emit_insn(struct emit *e, const struct host_insn *insn)
{
	unsigned int rex = rex_of(insn);

	if (insn->has_lock)
		emit_u8(e, 0xf0);
	if (insn->has_opsize)
		emit_u8(e, 0x66);
	if (insn->repeat)
		emit_u8(e, insn->repeat);
	if (rex)
		emit_u8(e, rex);
	if (insn->map != MAP_NONE)
		emit_u8(e, 0x0f);
	if (insn->map > MAP_0F)
		emit_u8(e, insn->map == MAP_0F38 ? 0x38 : 0x3a);
	if (insn->no_modrm) {
		emit_u8(e, (insn->opcode & ~7u) | (insn->rm & 7));
		return;
	}
	emit_u8(e, insn->opcode);
	if (insn->memory)
		emit_memory(e, insn->reg, insn->memory);
	else
		emit_u8(e, 0xc0 | (insn->reg & 7) << 3 | (insn->rm & 7));
}

static struct host_mem field_at(uint64_t offset)
{
	return (struct host_mem){
	    .base = REG_CPU, .index = HOST_NONE, .disp = (int32_t)offset - CPU_BIAS};
}

void emit_mov(struct emit *e, enum host_reg to, enum host_reg from)
{
	struct host_insn insn = {.opcode = 0x8b, .reg = to, .rm = from, .wide = 1};

	emit_insn(e, &insn);
}

void emit_mov_imm(struct emit *e, enum host_reg to, uint64_t value)
{
	struct host_insn insn = {.opcode = 0xb8, .rm = to, .wide = 1, .no_modrm = 1};

	emit_insn(e, &insn);
	emit_bytes(e, &value, sizeof(value));
}

void emit_load(struct emit *e, enum host_reg to, const struct host_mem *mem)
{
	struct host_insn insn = {.opcode = 0x8b, .reg = to, .memory = mem, .wide = 1};

	emit_insn(e, &insn);
}

void emit_store(struct emit *e, enum host_reg from, const struct host_mem *mem)
{
	struct host_insn insn = {.opcode = 0x89, .reg = from, .memory = mem, .wide = 1};

	emit_insn(e, &insn);
}

void emit_load_field(struct emit *e, enum host_reg to, uint64_t offset)
{
	struct host_mem mem = field_at(offset);

	emit_load(e, to, &mem);
}

void emit_store_field(struct emit *e, enum host_reg from, uint64_t offset)
{
	struct host_mem mem = field_at(offset);

	emit_store(e, from, &mem);
}

void emit_store_field_imm(struct emit *e, uint64_t offset, uint32_t value)
{
	struct host_mem mem = field_at(offset);
	struct host_insn insn = {.opcode = 0xc7, .memory = &mem};

	emit_insn(e, &insn);
	emit_u32(e, value);
}

void emit_add_retired(struct emit *e, uint64_t offset)
{
	struct host_mem mem = field_at(offset);
	struct host_insn paddq = {
	    .map = MAP_0F, .opcode = 0xd4, .has_opsize = 1, .reg = XMM_RETIRED, .memory = &mem};

	emit_insn(e, &paddq);
}

void emit_add_retired_few(struct emit *e, unsigned int number)
{
	struct host_insn paddq = {
	    .map = MAP_0F, .opcode = 0xd4, .has_opsize = 1, .reg = XMM_RETIRED, .rm = number};

	emit_insn(e, &paddq);
}

void emit_load_xmm(struct emit *e, unsigned int xmm, uint64_t offset)
{
	struct host_mem mem = field_at(offset);
	struct host_insn movq = {
	    .map = MAP_0F, .opcode = 0x7e, .repeat = 0xf3, .reg = xmm, .memory = &mem};

	emit_insn(e, &movq);
}

void emit_store_xmm(struct emit *e, unsigned int xmm, uint64_t offset)
{
	struct host_mem mem = field_at(offset);
	struct host_insn movq = {
	    .map = MAP_0F, .opcode = 0xd6, .has_opsize = 1, .reg = xmm, .memory = &mem};

	emit_insn(e, &movq);
}

/* MOVDQU */
static void emit_vector_field(struct emit *e, unsigned int opcode, unsigned int xmm,
			      uint64_t offset)
{
	struct host_mem mem = field_at(offset);
	struct host_insn movdqu = {.map = MAP_0F,
				   .opcode = (uint8_t)opcode,
				   .repeat = 0xf3,
				   .reg = (uint8_t)xmm,
				   .memory = &mem};

	emit_insn(e, &movdqu);
}

void emit_load_vector(struct emit *e, unsigned int xmm, uint64_t offset)
{
	emit_vector_field(e, 0x6f, xmm, offset);
}

void emit_store_vector(struct emit *e, unsigned int xmm, uint64_t offset)
{
	emit_vector_field(e, 0x7f, xmm, offset);
}

void emit_lea(struct emit *e, enum host_reg to, const struct host_mem *mem)
{
	struct host_insn insn = {.opcode = 0x8d, .reg = to, .memory = mem, .wide = 1};

	emit_insn(e, &insn);
}

void emit_load_table(struct emit *e, enum host_reg to, enum host_reg set, uint64_t offset)
{
	struct host_mem mem = field_at(offset);

	mem.index = set;
	mem.scale = 3;
	emit_load(e, to, &mem);
}

struct vex {
	uint8_t opcode, prefix, reg, other, rm;
	const struct host_mem *memory;
};

/* VEX.LZ.0F38.W1 */
static void emit_vex(struct emit *e, const struct vex *vex)
{
	unsigned int rm = vex->memory ? vex->memory->base : vex->rm;
	uint8_t head[4] = {
	    0xc4,
	    (vex->reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | 2,
	    0x80 | (~vex->other & 15) << 3 | vex->prefix,
	    vex->opcode,
	};

	emit_bytes(e, head, sizeof(head));
	if (vex->memory)
		emit_memory(e, vex->reg, vex->memory);
	else
		emit_u8(e, 0xc0 | (vex->reg & 7) << 3 | (vex->rm & 7));
}

void emit_shr_page(struct emit *e, enum host_reg to, enum host_reg from)
{
	struct vex vex = {
	    .opcode = 0xf7, .prefix = VEX_F2, .reg = to, .rm = from, .other = REG_CPU};

	emit_vex(e, &vex);
}

void emit_shl_page(struct emit *e, enum host_reg to, enum host_reg from)
{
	struct vex vex = {
	    .opcode = 0xf7, .prefix = VEX_66, .reg = to, .rm = from, .other = REG_CPU};

	emit_vex(e, &vex);
}

void emit_pext_field(struct emit *e, enum host_reg to, enum host_reg from, uint64_t offset)
{
	struct host_mem mem = field_at(offset);
	struct vex vex = {
	    .opcode = 0xf5, .prefix = VEX_F3, .reg = to, .other = from, .memory = &mem};

	emit_vex(e, &vex);
}

uint8_t *emit_jmp(struct emit *e)
{
	emit_u8(e, 0xe9);
	emit_u32(e, 0);
	return e->at - 4;
}

uint8_t *emit_jcc(struct emit *e, unsigned int condition)
{
	emit_u8(e, 0x0f);
	emit_u8(e, 0x80 | condition);
	emit_u32(e, 0);
	return e->at - 4;
}

void emit_aim(uint8_t *distance, const uint8_t *target)
{
	int32_t value = (int32_t)(target - (distance + 4));

	memcpy(distance, &value, sizeof(value));
}

uint8_t *emit_jmp_unless_rcx_zero(struct emit *e)
{
	emit_u8(e, 0xe3);
	emit_u8(e, 5);
	return emit_jmp(e);
}
