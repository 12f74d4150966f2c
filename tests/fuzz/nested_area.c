/* The memory of a fuzzed guest, with canaries around its slots. */
#include "tests/fuzz/nested_area.h"

#include <string.h>
#include <sys/mman.h>

#include "tests/fuzz/target.h"

#define CANARY_BYTES (4 * PAGE)
#define CANARY 0xc35aa5e1967b3c1dull

void area_create(struct area *area)
{
	area->bytes = 3 * CANARY_BYTES + MEMORY_BYTES + SECOND_BYTES;
	area->base =
	    mmap(NULL, area->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area->base == MAP_FAILED)
		fuzz_fail("no memory");
	area->memory = area->base + CANARY_BYTES;
	area->second = area->memory + MEMORY_BYTES + CANARY_BYTES;
	for (size_t i = 0; i < area->bytes / 8; i++)
		((uint64_t *)area->base)[i] = CANARY;
	memset(area->memory, 0, MEMORY_BYTES);
	memset(area->second, 0, SECOND_BYTES);
}

static void check_canary(const uint8_t *at)
{
	for (size_t i = 0; i < CANARY_BYTES / 8; i++)
		if (((const uint64_t *)at)[i] != CANARY)
			fuzz_fail("memory beside a slot was written");
}

void area_check(const struct area *area)
{
	check_canary(area->base);
	check_canary(area->memory + MEMORY_BYTES);
	check_canary(area->second + SECOND_BYTES);
}

/* Neither the canary, in any alignment, nor an address of the area is the guest's to know. */
void area_check_secret(const struct area *area, uint64_t value)
{
	for (unsigned int turn = 0; turn < 64; turn += 8)
		if (value == (CANARY >> turn | (turn ? CANARY << (64 - turn) : 0)))
			fuzz_fail("the guest has read memory beside a slot");
	if (value >= (uintptr_t)area->base && value < (uintptr_t)area->base + area->bytes)
		fuzz_fail("the guest has learnt an address of the host");
}
