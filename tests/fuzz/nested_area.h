/* The memory of a fuzzed guest, with canaries around its slots. */
#ifndef QUIRE_TESTS_FUZZ_NESTED_AREA_H
#define QUIRE_TESTS_FUZZ_NESTED_AREA_H

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096ull
#define MEMORY_BYTES (64 * PAGE)
#define SECOND_BYTES (16 * PAGE)

/* Canary, first slot, canary, second slot, canary: in this order in the host's memory. */
struct area {
	uint8_t *base;
	uint8_t *memory;
	uint8_t *second;
	size_t bytes;
};

void area_create(struct area *area);
/* No canary has changed. */
void area_check(const struct area *area);
/* A guest's register must not hold this. */
void area_check_secret(const struct area *area, uint64_t value);

#endif
