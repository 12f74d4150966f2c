/* AVX and AVX2 across lanes: broadcasts, permutes, inserts, blends, and shifts by element. */
#include "vcpu/exec/avx.h"
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/mem/mem.h"

/* Broadcasts: op->aux is the size of the element in bytes. */

static enum step exec_broadcast(struct cpu *cpu, const struct op *op)
{
	unsigned int size_bytes = (unsigned int)op->aux;
	union avx_value unused, value;
	enum step step = avx_sources(cpu, op, &unused, &value);

	if (unlikely(step))
		return step;
	for (unsigned int at = size_bytes; at < sizeof(value); at += size_bytes)
		memcpy(&value.byte[at], &value.byte[0], size_bytes);
	avx_set(cpu, op, &value);
	return STEP_NEXT;
}

/* Where each element comes from is computed: @first becomes the result. */
typedef void (*permute_fn)(union avx_value *first, const union avx_value *second, unsigned int imm);

static enum step exec_permute(struct cpu *cpu, const struct op *op)
{
	permute_fn permute = (permute_fn)(uintptr_t)op->aux;
	union avx_value first, second;
	enum step step = avx_sources(cpu, op, &first, &second);

	if (unlikely(step))
		return step;
	permute(&first, &second, (unsigned int)op->imm);
	avx_set(cpu, op, &first);
	return STEP_NEXT;
}

static op_fn bind_permute(struct op *op, const struct decoded *decoded)
{
	return exec_permute;
}

static op_fn bind_insert128(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	return exec_permute;
}

/* Within a lane, by a register or by an immediate. */

static void permilps(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	union avx_value from = *first;

	for (unsigned int i = 0; i < 8; i++)
		first->dword[i] = from.dword[(i & 4) + (second->dword[i] & 3)];
}

static void permilpd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	union avx_value from = *first;

	for (unsigned int i = 0; i < 4; i++)
		first->qword[i] = from.qword[(i & 2) + (second->qword[i] >> 1 & 1)];
}

static void permilps_imm(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++)
		first->dword[i] = second->dword[(i & 4) + (imm >> 2 * (i & 3) & 3)];
}

static void permilpd_imm(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 4; i++)
		first->qword[i] = second->qword[(i & 2) + (imm >> i & 1)];
}

/* VPERMILPS and VPERMILPD: op->aux points to both ways before binding. */
struct permil {
	permute_fn by_register, by_immediate;
};
static const struct permil permil_single = {permilps, permilps_imm};
static const struct permil permil_double = {permilpd, permilpd_imm};

static op_fn bind_permil(struct op *op, const struct decoded *decoded)
{
	const struct permil *ways = (const struct permil *)(uintptr_t)op->aux;
	int has_immediate = op->kind[2] == OPERAND_IMM;

	op->aux = KERNEL_ADDRESS(has_immediate ? ways->by_immediate : ways->by_register);
	return exec_permute;
}

/* Across lanes. */

static void permd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++)
		first->dword[i] = second->dword[first->dword[i] & 7];
}

static void permq(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 4; i++)
		first->qword[i] = second->qword[imm >> 2 * i & 3];
}

static vec lane_select(const union avx_value *first, const union avx_value *second,
		       unsigned int select)
{
	if (select & 8)
		return (vec){0, 0};
	return select & 2 ? second->lane[select & 1] : first->lane[select & 1];
}

static void perm2x128(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	union avx_value from = *first;

	first->lane[0] = lane_select(&from, second, imm);
	first->lane[1] = lane_select(&from, second, imm >> 4);
}

static void insert128(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	first->lane[imm & 1] = second->lane[0];
}

static void blendd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++) {
		if (imm >> i & 1)
			first->dword[i] = second->dword[i];
	}
}

/* Each element is shifted by its own count; none of its bits are left past its width. */

static void sllvd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++)
		first->dword[i] = second->dword[i] < 32 ? first->dword[i] << second->dword[i] : 0;
}

static void srlvd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++)
		first->dword[i] = second->dword[i] < 32 ? first->dword[i] >> second->dword[i] : 0;
}

static void sllvq(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 4; i++)
		first->qword[i] = second->qword[i] < 64 ? first->qword[i] << second->qword[i] : 0;
}

static void srlvq(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 4; i++)
		first->qword[i] = second->qword[i] < 64 ? first->qword[i] >> second->qword[i] : 0;
}

static void sravd(union avx_value *first, const union avx_value *second, unsigned int imm)
{
	for (unsigned int i = 0; i < 8; i++) {
		unsigned int count = second->dword[i] < 32 ? second->dword[i] : 31;

		first->dword[i] = (uint32_t)((int32_t)first->dword[i] >> count);
	}
}

static enum step exec_extract128(struct cpu *cpu, const struct op *op)
{
	union avx_value value;
	enum step step = avx_check(cpu);
	uint64_t linear;

	if (unlikely(step))
		return step;
	avx_get(cpu, op->src, &value);
	if (op->kind[0] != OPERAND_MEM) {
		avx_set_low(cpu, op, value.lane[op->imm & 1]);
		return STEP_NEXT;
	}
	step = op_linear(cpu, op, &linear);
	return step ? step : mem_write(cpu, linear, &value.lane[op->imm & 1], sizeof(vec));
}

static op_fn bind_extract128(struct op *op, const struct decoded *decoded)
{
	op->flags |= OP_ANY_ALIGNMENT;
	return exec_extract128;
}

/* op->aux: the bits of each 64 that count. */
static enum step exec_test(struct cpu *cpu, const struct op *op)
{
	union avx_value first, second;
	enum step step = avx_check(cpu);
	uint64_t both = 0, second_only = 0;

	if (likely(!step))
		step = avx_operand(cpu, op, 1, &second);
	if (unlikely(step))
		return step;
	avx_get(cpu, op->dst, &first);
	for (unsigned int i = 0; i < op->vector_bytes / 8u; i++) {
		both |= first.qword[i] & second.qword[i] & op->aux;
		second_only |= ~first.qword[i] & second.qword[i] & op->aux;
	}
	flags_set_arithmetic(cpu, (both ? 0 : FLAG_ZF) | (second_only ? 0 : FLAG_CF));
	return STEP_NEXT;
}

#define SIGNS_OF_SINGLES UINT64_C(0x8000000080000000)
#define SIGNS_OF_DOUBLES UINT64_C(0x8000000000000000)
#define EVERY_BIT UINT64_MAX

#define PERMUTE(name, permute)                                                     \
	{                                                                          \
		ZYDIS_MNEMONIC_##name, NULL, bind_permute, KERNEL_ADDRESS(permute) \
	}

const struct insn_desc exec_avx_permute_table[] = {
    {ZYDIS_MNEMONIC_VBROADCASTSS, exec_broadcast, NULL, 4},
    {ZYDIS_MNEMONIC_VBROADCASTSD, exec_broadcast, NULL, 8},
    {ZYDIS_MNEMONIC_VBROADCASTF128, exec_broadcast, NULL, 16},
    {ZYDIS_MNEMONIC_VBROADCASTI128, exec_broadcast, NULL, 16},
    {ZYDIS_MNEMONIC_VPBROADCASTB, exec_broadcast, NULL, 1},
    {ZYDIS_MNEMONIC_VPBROADCASTW, exec_broadcast, NULL, 2},
    {ZYDIS_MNEMONIC_VPBROADCASTD, exec_broadcast, NULL, 4},
    {ZYDIS_MNEMONIC_VPBROADCASTQ, exec_broadcast, NULL, 8},
    {ZYDIS_MNEMONIC_VPERMILPS, NULL, bind_permil, KERNEL_ADDRESS(&permil_single)},
    {ZYDIS_MNEMONIC_VPERMILPD, NULL, bind_permil, KERNEL_ADDRESS(&permil_double)},
    PERMUTE(VPERMD, permd),
    PERMUTE(VPERMPS, permd),
    PERMUTE(VPERMQ, permq),
    PERMUTE(VPERMPD, permq),
    PERMUTE(VPERM2F128, perm2x128),
    PERMUTE(VPERM2I128, perm2x128),
    {ZYDIS_MNEMONIC_VINSERTF128, NULL, bind_insert128, KERNEL_ADDRESS(insert128)},
    {ZYDIS_MNEMONIC_VINSERTI128, NULL, bind_insert128, KERNEL_ADDRESS(insert128)},
    PERMUTE(VPBLENDD, blendd),
    PERMUTE(VPSLLVD, sllvd),
    PERMUTE(VPSLLVQ, sllvq),
    PERMUTE(VPSRLVD, srlvd),
    PERMUTE(VPSRLVQ, srlvq),
    PERMUTE(VPSRAVD, sravd),
    {ZYDIS_MNEMONIC_VEXTRACTF128, NULL, bind_extract128, 0},
    {ZYDIS_MNEMONIC_VEXTRACTI128, NULL, bind_extract128, 0},
    {ZYDIS_MNEMONIC_VTESTPS, exec_test, NULL, SIGNS_OF_SINGLES},
    {ZYDIS_MNEMONIC_VTESTPD, exec_test, NULL, SIGNS_OF_DOUBLES},
    {ZYDIS_MNEMONIC_VPTEST, exec_test, NULL, EVERY_BIT},
    {0},
};
