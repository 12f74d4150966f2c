/* Loops that run natively and in a guest: the same bytes at the same addresses. */
#ifndef QUIRE_CLI_BENCH_LOOPS_H
#define QUIRE_CLI_BENCH_LOOPS_H

#include "src/base/types.h"

enum loop {
	LOOP_ALU,
	LOOP_SIEVE,
	LOOP_QSORT,
	LOOP_COPY,
	LOOP_FIB,
	LOOP_BIG,
	LOOP_TOUCH,
	LOOP_CHASE,
	LOOP_REP,
	LOOP_VECTOR,
	LOOP_OUT, /* for ever: a byte to port 0x80 */
};

/* What loops are the geometric mean of. */
#define LOOPS_MEAN 6u

/* The memory that loops work on: zeros, but for what loops leave. */
#define LOOP_MEMORY_BYTES (UINT64_C(64) << 20)

/* Calls nothing outside of its section. Returns a checksum. */
u64 loop_run(enum loop which, u8 *memory);
/* In a guest, where a loop returns to: HLT. */
void loop_halt(void);

extern const u8 __start_bench_loops[], __stop_bench_loops[];

#endif
