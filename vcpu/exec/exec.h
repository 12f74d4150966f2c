/* What the files of instruction handlers share. */
#ifndef QUIRE_VCPU_EXEC_EXEC_H
#define QUIRE_VCPU_EXEC_EXEC_H

#include "vcpu/inside.h"
#include "vcpu/mem/mem.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define GPR_OFFSET(reg) (offsetof(struct cpu, s.gpr) + (reg) * sizeof(uint64_t))

static inline uint64_t size_mask(unsigned int size_bytes)
{
	return ~UINT64_C(0) >> (64 - size_bytes * 8);
}

static inline uint64_t sign_extend(uint64_t value, unsigned int size_bytes)
{
	unsigned int shift = 64 - size_bytes * 8;

	return (uint64_t)((int64_t)(value << shift) >> shift);
}

static inline unsigned int sign_bit(uint64_t value, unsigned int size_bytes)
{
	return value >> (size_bytes * 8 - 1) & 1;
}

/* Carries out of every bit position, as cc_carry wants them. */
static inline uint64_t carry_word(uint64_t carries, unsigned int size_bytes)
{
	return (carries << (64 - size_bytes * 8) & UINT64_C(0xc000000000000000)) | (carries & 8);
}

static inline uint64_t carries_of_add(uint64_t a, uint64_t b, uint64_t sum)
{
	return (a & b) | ((a | b) & ~sum);
}

static inline uint64_t carries_of_sub(uint64_t a, uint64_t b, uint64_t difference)
{
	return (~a & b) | ((~a | b) & difference);
}

/* CF and OF as cc_carry holds them. */
static inline uint64_t carry_bits(unsigned int cf, unsigned int of)
{
	return (uint64_t)cf << 63 | (uint64_t)(cf ^ of) << 62;
}

static inline void flags_set_result(struct cpu *cpu, uint64_t result, unsigned int size_bytes,
				    uint64_t carry)
{
	cpu->cc_result = sign_extend(result, size_bytes);
	cpu->cc_carry = carry;
}

/* CF and OF only, the other four stay. */
static inline void flags_set_carry(struct cpu *cpu, unsigned int cf, unsigned int of)
{
	cpu->cc_carry = (cpu->cc_carry & ~UINT64_C(0xc000000000000000)) | carry_bits(cf, of);
}

/* Operand sizes as an index: 1, 2, 4, 8 -> 0 .. 3. */
static inline unsigned int size_index(unsigned int size_bytes)
{
	return __builtin_ctz(size_bytes);
}

/* Conditions with the names of Zydis' mnemonics and the numbers of the opcodes. */
#define CONDITIONS(X) \
	X(O, 0)       \
	X(NO, 1)      \
	X(B, 2)       \
	X(NB, 3)      \
	X(Z, 4)       \
	X(NZ, 5)      \
	X(BE, 6)      \
	X(NBE, 7)     \
	X(S, 8)       \
	X(NS, 9)      \
	X(P, 10)      \
	X(NP, 11)     \
	X(L, 12)      \
	X(NL, 13)     \
	X(LE, 14)     \
	X(NLE, 15)

/* Is each of the eight memory types of IA32_PAT one? */
int cpu_pat_is_valid(uint64_t value);

/* Push and pop of the current stack. RSP moves only when the access succeeded. */
enum step stack_push(struct cpu *cpu, unsigned int size_bytes, uint64_t value);
enum step stack_pop(struct cpu *cpu, unsigned int size_bytes, uint64_t *value);
/* Read at RSP + @offset_bytes; RSP stays. */
enum step stack_peek(struct cpu *cpu, unsigned int offset_bytes, unsigned int size_bytes,
		     uint64_t *value);
/* Write @value at RSP + @offset_bytes; RSP stays: stack_move() moves it. */
enum step stack_poke(struct cpu *cpu, int offset_bytes, unsigned int size_bytes, uint64_t value);
void stack_move(struct cpu *cpu, int64_t bytes);

/* Load for read-modify-write, with the fast path inlined. */
static inline enum step mem_load_rmw(struct cpu *cpu, uint64_t linear, unsigned int size_bytes,
				     uint64_t *value)
{
	const struct tlb_entry *entry = &cpu->tlb->data[0][tlb_set(linear)];

	if (likely(entry->write == tlb_tag(cpu, linear) &&
		   (linear & PAGE_OFFSET_MASK) + size_bytes <= QUIRE_PAGE_SIZE)) {
		if (likely(guard_load((const void *)(uintptr_t)(linear + entry->addend), size_bytes,
				      value) == GUARD_OK))
			return STEP_NEXT;
		return mem_store_failed(cpu, linear);
	}
	return mem_load_for_store(cpu, linear, size_bytes, value);
}

/*
 * An atomic read-modify-write of operand 0 in memory: @compute makes the new value of the old one
 * and may be called several times; *@old is what was replaced.
 */
typedef uint64_t (*rmw_fn)(const struct cpu *cpu, const struct op *op, uint64_t old);
enum step mem_update(struct cpu *cpu, const struct op *op, rmw_fn compute, uint64_t *old);

/*
 * Compare 16 bytes with @old and, when equal, store @desired, atomically; @old receives what was
 * there. @linear is 16-byte aligned.
 */
enum step mem_cmpxchg16(struct cpu *cpu, uint64_t linear, uint64_t old[2],
			const uint64_t desired[2], int *swapped);

#endif
