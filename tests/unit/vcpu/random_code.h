/* Random blocks of instructions that become translated code. */
#ifndef TESTS_UNIT_VCPU_RANDOM_CODE_H
#define TESTS_UNIT_VCPU_RANDOM_CODE_H

#include <stdint.h>

#include "tests/unit/vcpu/guest_state.h"

#define PAGE UINT64_C(4096)
/* Every access of a block has a page of its own. */
#define DATA_LINEAR (PAGED_LINEAR + 64 * PAGE)
#define ACCESSES_MAX 24u

/* A block: RBX points to data, R12 is a small index, RSP to the stack; all others are random. */
struct code {
	uint8_t bytes[1024];
	unsigned int size, accesses;
};

/* A number below @below. */
uint64_t rnd(uint64_t below);
/* @insns instructions or so, and HLT. */
void code_make(struct code *code, unsigned int insns);

#endif
