/* Bit counting and fields (POPCNT, LZCNT, BMI), ADX, CRC32, MOVBE, random numbers, RDPID. */
#include "vcpu/exec/flags.h"
#include "vcpu/exec/operand.h"
#include "vcpu/inside.h"
#include "vcpu/run/raise.h"

#include <sys/random.h>

static inline uint64_t width_mask(unsigned int size_bytes)
{
	return UINT64_MAX >> (64 - 8 * size_bytes);
}

static inline unsigned int width_bits(const struct op *op)
{
	return 8u * op->size;
}

/* ZF and SF of @result. */
static inline uint64_t flags_of(const struct op *op, uint64_t result)
{
	uint64_t flags = result ? 0 : FLAG_ZF;

	return flags | (result >> (width_bits(op) - 1) & 1 ? FLAG_SF : 0);
}

static inline void result_set(struct cpu *cpu, const struct op *op, uint64_t result, uint64_t flags)
{
	reg_set(cpu, op->dst, op->size, result);
	flags_set_arithmetic(cpu, flags);
}

static enum step exec_popcnt(struct cpu *cpu, const struct op *op)
{
	uint64_t src;
	enum step step = op_read(cpu, op, 1, op->size, &src);

	if (likely(!step))
		result_set(cpu, op, (uint64_t)__builtin_popcountll(src), src ? 0 : FLAG_ZF);
	return step;
}

static enum step exec_lzcnt(struct cpu *cpu, const struct op *op)
{
	uint64_t src, count;
	enum step step = op_read(cpu, op, 1, op->size, &src);

	if (unlikely(step))
		return step;
	count = src ? (uint64_t)__builtin_clzll(src) - (64 - width_bits(op)) : width_bits(op);
	result_set(cpu, op, count, (src ? 0 : FLAG_CF) | (count ? 0 : FLAG_ZF));
	return STEP_NEXT;
}

static enum step exec_tzcnt(struct cpu *cpu, const struct op *op)
{
	uint64_t src, count;
	enum step step = op_read(cpu, op, 1, op->size, &src);

	if (unlikely(step))
		return step;
	count = src ? (uint64_t)__builtin_ctzll(src) : width_bits(op);
	result_set(cpu, op, count, (src ? 0 : FLAG_CF) | (count ? 0 : FLAG_ZF));
	return STEP_NEXT;
}

/* The operand @which of an instruction with a VEX prefix, which real mode does not know. */
static enum step vex_read(struct cpu *cpu, const struct op *op, unsigned int which, uint64_t *value)
{
	if (unlikely(!cpu_is_protected(cpu)))
		return cpu_raise(cpu, VECTOR_UD);
	return op_read(cpu, op, which, op->size, value);
}

static enum step exec_andn(struct cpu *cpu, const struct op *op)
{
	uint64_t src, result;
	enum step step = vex_read(cpu, op, 2, &src);

	if (unlikely(step))
		return step;
	result = ~reg_get(cpu, op->src, op->size) & src;
	result_set(cpu, op, result, flags_of(op, result));
	return STEP_NEXT;
}

static enum step exec_bextr(struct cpu *cpu, const struct op *op)
{
	uint64_t src, control = reg_get(cpu, op->src2, op->size);
	unsigned int start = control & 0xff, length = control >> 8 & 0xff;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	src = start < 64 ? src >> start : 0;
	if (length < 64)
		src &= (UINT64_C(1) << length) - 1;
	result_set(cpu, op, src, src ? 0 : FLAG_ZF);
	return STEP_NEXT;
}

static enum step exec_blsi(struct cpu *cpu, const struct op *op)
{
	uint64_t src, result;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	result = src & -src;
	result_set(cpu, op, result, flags_of(op, result) | (src ? FLAG_CF : 0));
	return STEP_NEXT;
}

static enum step exec_blsmsk(struct cpu *cpu, const struct op *op)
{
	uint64_t src, result;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	result = (src ^ (src - 1)) & width_mask(op->size);
	result_set(cpu, op, result, flags_of(op, result) | (src ? 0 : FLAG_CF));
	return STEP_NEXT;
}

static enum step exec_blsr(struct cpu *cpu, const struct op *op)
{
	uint64_t src, result;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	result = src & (src - 1) & width_mask(op->size);
	result_set(cpu, op, result, flags_of(op, result) | (src ? 0 : FLAG_CF));
	return STEP_NEXT;
}

static enum step exec_bzhi(struct cpu *cpu, const struct op *op)
{
	unsigned int index = reg_get(cpu, op->src2, 1);
	uint64_t src, flags = 0;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	if (index < width_bits(op))
		src &= (UINT64_C(1) << index) - 1;
	else
		flags = FLAG_CF;
	result_set(cpu, op, src, flags | flags_of(op, src));
	return STEP_NEXT;
}

/* Operand 0 receives the high half, operand 1 the low one; the same register: the high half. */
static enum step exec_mulx(struct cpu *cpu, const struct op *op)
{
	uint64_t src;
	enum step step = vex_read(cpu, op, 2, &src);
	unsigned __int128 product;

	if (unlikely(step))
		return step;
	product =
	    (unsigned __int128)reg_get(cpu, offsetof(struct cpu, s.gpr[CPU_RDX]), op->size) * src;
	reg_set(cpu, op->src, op->size, (uint64_t)product);
	reg_set(cpu, op->dst, op->size, (uint64_t)(product >> width_bits(op)));
	return STEP_NEXT;
}

static enum step exec_pdep(struct cpu *cpu, const struct op *op)
{
	uint64_t mask, src = reg_get(cpu, op->src, op->size), result = 0;
	enum step step = vex_read(cpu, op, 2, &mask);

	if (unlikely(step))
		return step;
	for (; mask; mask &= mask - 1, src >>= 1)
		result |= src & 1 ? mask & -mask : 0;
	reg_set(cpu, op->dst, op->size, result);
	return STEP_NEXT;
}

static enum step exec_pext(struct cpu *cpu, const struct op *op)
{
	uint64_t mask, src = reg_get(cpu, op->src, op->size), result = 0, bit = 1;
	enum step step = vex_read(cpu, op, 2, &mask);

	if (unlikely(step))
		return step;
	for (; mask; mask &= mask - 1, bit <<= 1)
		result |= src & mask & -mask ? bit : 0;
	reg_set(cpu, op->dst, op->size, result);
	return STEP_NEXT;
}

static enum step exec_rorx(struct cpu *cpu, const struct op *op)
{
	unsigned int bits = width_bits(op), count = op->imm & (bits - 1);
	uint64_t src;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	reg_set(cpu, op->dst, op->size, count ? src >> count | src << (bits - count) : src);
	return STEP_NEXT;
}

/* SARX, SHLX, SHRX: op->aux is which. */
enum shift_kind { SHIFT_SAR, SHIFT_SHL, SHIFT_SHR };

static enum step exec_shift(struct cpu *cpu, const struct op *op)
{
	unsigned int bits = width_bits(op);
	unsigned int count = reg_get(cpu, op->src2, 1) & (bits - 1);
	uint64_t src;
	enum step step = vex_read(cpu, op, 1, &src);

	if (unlikely(step))
		return step;
	if (op->aux == SHIFT_SHL)
		src <<= count;
	else if (op->aux == SHIFT_SHR)
		src >>= count;
	else
		src = (uint64_t)((int64_t)(src << (64 - bits)) >> (64 - bits) >> count);
	reg_set(cpu, op->dst, op->size, src);
	return STEP_NEXT;
}

/* ADCX and ADOX: op->aux is the flag that carries; the others stay. */
static enum step exec_add_carry(struct cpu *cpu, const struct op *op)
{
	uint64_t flags = flags_arithmetic(cpu), src;
	enum step step = op_read(cpu, op, 1, op->size, &src);
	unsigned __int128 sum;

	if (unlikely(step))
		return step;
	sum = (unsigned __int128)reg_get(cpu, op->dst, op->size) + src + !!(flags & op->aux);
	flags &= ~op->aux;
	if (sum >> width_bits(op))
		flags |= op->aux;
	result_set(cpu, op, (uint64_t)sum, flags);
	return STEP_NEXT;
}

static enum step exec_movbe(struct cpu *cpu, const struct op *op)
{
	uint64_t value;
	enum step step = op_read(cpu, op, 1, op->size, &value);

	if (unlikely(step))
		return step;
	return op_write(cpu, op, op->size, __builtin_bswap64(value) >> (64 - width_bits(op)));
}

/* CRC32-C, reflected polynomial. */
#define CRC32C_POLYNOMIAL UINT32_C(0x82f63b78)

/* op->aux: bytes of the source. */
static enum step exec_crc32(struct cpu *cpu, const struct op *op)
{
	uint32_t crc = (uint32_t)reg_get(cpu, op->dst, 4);
	uint64_t src;
	enum step step = op_read(cpu, op, 1, op->aux, &src);

	if (unlikely(step))
		return step;
	for (unsigned int i = 0; i < op->aux; i++) {
		crc ^= (uint8_t)(src >> 8 * i);
		for (unsigned int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? CRC32C_POLYNOMIAL : 0);
	}
	reg_set(cpu, op->dst, 4, crc);
	return STEP_NEXT;
}

static op_fn bind_crc32(struct op *op, const struct decoded *decoded)
{
	op->aux = decoded->operand[1].size / 8;
	return exec_crc32;
}

/* CF says whether there was a number; the guest tries again when not. */
static enum step exec_random(struct cpu *cpu, const struct op *op)
{
	uint64_t value = 0;
	ssize_t got = getrandom(&value, op->size, GRND_NONBLOCK);

	if (got != op->size)
		value = 0;
	result_set(cpu, op, value, got == op->size ? FLAG_CF : 0);
	return STEP_NEXT;
}

static enum step exec_rdpid(struct cpu *cpu, const struct op *op)
{
	reg_set(cpu, op->dst, cpu->code_bytes == 8 ? 8 : 4, (uint32_t)cpu->s.tsc_aux);
	return STEP_NEXT;
}

const struct insn_desc exec_bits_table[] = {
    {ZYDIS_MNEMONIC_POPCNT, exec_popcnt, NULL, 0},
    {ZYDIS_MNEMONIC_LZCNT, exec_lzcnt, NULL, 0},
    {ZYDIS_MNEMONIC_TZCNT, exec_tzcnt, NULL, 0},
    {ZYDIS_MNEMONIC_ANDN, exec_andn, NULL, 0},
    {ZYDIS_MNEMONIC_BEXTR, exec_bextr, NULL, 0},
    {ZYDIS_MNEMONIC_BLSI, exec_blsi, NULL, 0},
    {ZYDIS_MNEMONIC_BLSMSK, exec_blsmsk, NULL, 0},
    {ZYDIS_MNEMONIC_BLSR, exec_blsr, NULL, 0},
    {ZYDIS_MNEMONIC_BZHI, exec_bzhi, NULL, 0},
    {ZYDIS_MNEMONIC_MULX, exec_mulx, NULL, 0},
    {ZYDIS_MNEMONIC_PDEP, exec_pdep, NULL, 0},
    {ZYDIS_MNEMONIC_PEXT, exec_pext, NULL, 0},
    {ZYDIS_MNEMONIC_RORX, exec_rorx, NULL, 0},
    {ZYDIS_MNEMONIC_SARX, exec_shift, NULL, SHIFT_SAR},
    {ZYDIS_MNEMONIC_SHLX, exec_shift, NULL, SHIFT_SHL},
    {ZYDIS_MNEMONIC_SHRX, exec_shift, NULL, SHIFT_SHR},
    {ZYDIS_MNEMONIC_ADCX, exec_add_carry, NULL, FLAG_CF},
    {ZYDIS_MNEMONIC_ADOX, exec_add_carry, NULL, FLAG_OF},
    {ZYDIS_MNEMONIC_MOVBE, exec_movbe, NULL, 0},
    {ZYDIS_MNEMONIC_CRC32, NULL, bind_crc32, 0},
    {ZYDIS_MNEMONIC_RDRAND, exec_random, NULL, 0},
    {ZYDIS_MNEMONIC_RDSEED, exec_random, NULL, 0},
    {ZYDIS_MNEMONIC_RDPID, exec_rdpid, NULL, 0},
    {0},
};
