/* The machine is this process: physical addresses are pointers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"

const uint64_t physical_offset = 0;

void *zeroed(size_t alignment, size_t size_bytes)
{
	size_t whole = (size_bytes + alignment - 1) & ~(alignment - 1);
	void *memory = aligned_alloc(alignment, whole);

	return memory ? memset(memory, 0, whole) : NULL;
}

void release(void *memory, size_t size_bytes)
{
	(void)size_bytes;
	free(memory);
}

void say(const char *text, uint64_t number)
{
	printf("%s: %llu\n", text, (unsigned long long)number);
}
