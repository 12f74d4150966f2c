/*
 * What a fuzzer is made of. An input is a row of records of one size, each of which is a step: its
 * first byte says which one, the others are its draws. So an input can be cut, mixed and repeated
 * between any two records (mutate.c), and written down a line a record (replay.c, tools/fuzz.py).
 */
#ifndef QUIRE_TESTS_FUZZ_TARGET_H
#define QUIRE_TESTS_FUZZ_TARGET_H

#include "tests/fuzz/draws.h"

#define FUZZ_RECORD_BYTES 24u
#define FUZZ_RECORDS_MAX 64u
#define FUZZ_SECONDS 60u

struct fuzz_target {
	unsigned int kinds;   /* of steps, from 0 */
	int needs_kvm;	      /* it runs under quire run */
	unsigned int seconds; /* that an input may take; 0: FUZZ_SECONDS */
	/* Once in a process. */
	void (*start)(void);
	/* For each input: @begin, @step for each record until one returns 0, @end. */
	void (*begin)(void);
	int (*step)(unsigned int kind, struct fuzz_random *random);
	void (*end)(void);
};

/* Each fuzzer's own. */
extern const struct fuzz_target fuzz_target;

/* The input has found something: ends the process, which tells of the input. */
_Noreturn void fuzz_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* libFuzzer's names (see its documentation). */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
