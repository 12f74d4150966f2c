/* Which bit of CPUID an instruction needs: by mnemonic, from the processors' manuals. */
#ifndef TESTS_UNIT_VCPU_INSN_BITS_H
#define TESTS_UNIT_VCPU_INSN_BITS_H

#include <stddef.h>
#include <stdint.h>

/* A bit, as the guest reads it, and the mnemonics that it brings, blanks between them. */
struct insn_bit {
	const char *name;
	uint32_t leaf;
	uint8_t subleaf, which, bit;
	const char *mnemonics;
	const char *mmx; /* of these the forms with MMX registers alone */
};

extern const struct insn_bit insn_bits[];
extern const size_t insn_bit_count;

/* What every processor of these has; what is never an exception; all others are unknown to it. */
extern const char insn_always[];
extern const char insn_hints[];
/* Not in our processors, nor encodable: Knights Corner's. */
extern const char insn_not_listed[];

/* Is @name one of @list? */
int insn_is_in(const char *list, const char *name);

#endif
