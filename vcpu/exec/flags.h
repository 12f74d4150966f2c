/* The arithmetic flags, kept as a result and carries. */
#ifndef QUIRE_VCPU_EXEC_FLAGS_H
#define QUIRE_VCPU_EXEC_FLAGS_H

#include "vcpu/inside.h"

/* The six that arithmetic sets: kept in cc_result and cc_carry while the CPU runs. */
#define FLAGS_ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

uint64_t flags_arithmetic(const struct cpu *cpu); /* the six, as in RFLAGS */
void flags_set_arithmetic(struct cpu *cpu, uint64_t flags);
/* RFLAGS as PUSHF would store it, and back (privilege was checked by the caller). */
uint64_t flags_get(const struct cpu *cpu);
void flags_set(struct cpu *cpu, uint64_t rflags);

static inline unsigned int flag_cf(const struct cpu *cpu)
{
	return cpu->cc_carry >> 63;
}

static inline unsigned int flag_of(const struct cpu *cpu)
{
	return (cpu->cc_carry >> 63) ^ (cpu->cc_carry >> 62 & 1);
}

static inline unsigned int flag_zf(const struct cpu *cpu)
{
	return cpu->cc_result == 0;
}

static inline unsigned int flag_sf(const struct cpu *cpu)
{
	return (cpu->cc_result >> 63) ^ (cpu->cc_carry & 1);
}

static inline unsigned int flag_pf(const struct cpu *cpu)
{
	return !__builtin_parity((uint8_t)(cpu->cc_result ^ cpu->cc_carry >> 8));
}

/* @condition as in Jcc: the low four bits of the opcode. */
static inline unsigned int flag_condition(const struct cpu *cpu, unsigned int condition)
{
	unsigned int holds;

	switch (condition >> 1) {
	case 0:
		holds = flag_of(cpu);
		break;
	case 1:
		holds = flag_cf(cpu);
		break;
	case 2:
		holds = flag_zf(cpu);
		break;
	case 3:
		holds = flag_cf(cpu) | flag_zf(cpu);
		break;
	case 4:
		holds = flag_sf(cpu);
		break;
	case 5:
		holds = flag_pf(cpu);
		break;
	case 6:
		holds = flag_sf(cpu) ^ flag_of(cpu);
		break;
	default:
		holds = (flag_sf(cpu) ^ flag_of(cpu)) | flag_zf(cpu);
		break;
	}
	return holds ^ (condition & 1);
}

#endif
