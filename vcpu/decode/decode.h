/* Decoding: bytes to operations, once. */
#ifndef QUIRE_VCPU_DECODE_DECODE_H
#define QUIRE_VCPU_DECODE_DECODE_H

#include "vcpu/decode/op.h"

enum decode_result {
	DECODE_OK,
	DECODE_SHORT,	/* more bytes are needed */
	DECODE_INVALID, /* no such instruction: @op raises #UD */
};

struct decode_input {
	const uint8_t *bytes;
	unsigned int size_bytes;
	uint8_t code_bytes; /* 2, 4, 8 */
	uint64_t features;  /* that the guest sees: a bit for each of enum feature */
};

/* What the first decode_one() would do: later it makes no system call, which a filter may kill. */
void decode_start(void);

/* Decode the first instruction of @input. Any thread. */
enum decode_result decode_one(const struct decode_input *input, struct op *op);

/* Name of a mnemonic, as Zydis spells it. */
const char *decode_mnemonic(unsigned int mnemonic);

#endif
