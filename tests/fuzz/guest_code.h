/* Random guest code: mostly instructions that decode, of every kind, with operands near trouble. */
#ifndef QUIRE_TESTS_GUEST_CODE_H
#define QUIRE_TESTS_GUEST_CODE_H

#include "tests/fuzz/draws.h"

#define GUEST_CODE_LONGEST 48u

struct guest_code {
	uint8_t *bytes;
	size_t size;
	/* The guest's memory: what addresses in the code point to. */
	uint64_t memory_bytes;
	/* 16, 32 or 64: the width that most operands are made for. */
	unsigned int bits;
};

/* One instruction or a few that belong together, at the front of @code: how many bytes. */
size_t guest_code_one(struct fuzz_random *random, const struct guest_code *code);
void guest_code_fill(struct fuzz_random *random, const struct guest_code *code);
/* An address: in the guest's memory, at a page's end, in a hole, or anything at all. */
uint64_t guest_code_address(struct fuzz_random *random, uint64_t memory_bytes);
/* The number of an MSR, most often one that exists. */
uint32_t guest_code_msr(struct fuzz_random *random);

#endif
