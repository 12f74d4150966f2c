/* Reproducible draws: out of a seed, or out of the bytes of an input. */
#ifndef QUIRE_TESTS_FUZZ_DRAWS_H
#define QUIRE_TESTS_FUZZ_DRAWS_H

#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

struct fuzz_random {
	uint64_t state;
	/* Draws take these bytes first: a fuzzer that changes one of them changes one draw. */
	const uint8_t *bytes;
	size_t left;
};

void random_seed(struct fuzz_random *random, uint64_t seed);
/* Out of the bytes; then out of a seed that is made of all of them. */
void random_from(struct fuzz_random *random, const uint8_t *bytes, size_t size);
uint64_t random_word(struct fuzz_random *random);
/* A word whose bits decide several things: of two bytes, while there are any. */
uint64_t random_bits(struct fuzz_random *random);
/* Below @end, which is not 0. */
uint64_t random_below(struct fuzz_random *random, uint64_t end);
/* 1 once in @times. */
int random_once_in(struct fuzz_random *random, uint64_t times);
/* A word of those that break things: edges, small numbers, single bits, or anything. */
uint64_t random_edge(struct fuzz_random *random);
void random_bytes(struct fuzz_random *random, void *bytes, size_t size);

#endif
