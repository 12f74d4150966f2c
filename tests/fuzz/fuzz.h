/* What the fuzzers share: options, reproducible randomness, and a parent that watches the child. */
#ifndef QUIRE_TESTS_FUZZ_H
#define QUIRE_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* What the child tells the parent, in memory that both share. */
struct fuzz_progress {
	/* The seed being run. */
	volatile uint64_t seed;
	volatile uint64_t seeds_done;
	/* CLOCK_MONOTONIC in ns when the call in progress began; 0 outside of calls. */
	volatile uint64_t call_since_ns;
	/* What the seed does now, for the report of a crash: the fuzzer's own numbering. */
	volatile uint64_t step;
};

extern struct fuzz_progress *fuzz_progress;

struct fuzz_random {
	uint64_t state;
};

void random_seed(struct fuzz_random *random, uint64_t seed);
uint64_t random_word(struct fuzz_random *random);
/* Below @end, which is not 0. */
uint64_t random_below(struct fuzz_random *random, uint64_t end);
/* 1 once in @times. */
int random_once_in(struct fuzz_random *random, uint64_t times);
/* A word of those that break things: edges, small numbers, single bits, or anything. */
uint64_t random_edge(struct fuzz_random *random);
void random_bytes(struct fuzz_random *random, void *bytes, size_t size);

void call_begin(void);
void call_end(void);

/* Ends the child as a failure of the seed being run. */
_Noreturn void fuzz_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Runs @run_seed in a child for the seeds from --seed on, for --seconds. The parent reports the
 * seed at which the child died or stayed in one call for more than two seconds. Returns main()'s
 * value.
 */
int fuzz_main(int argc, char **argv, void (*run_seed)(uint64_t seed));

#endif
