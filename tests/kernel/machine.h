/* The bare machine: a serial line, memory by its physical address, and the way out. */
#ifndef KERNEL_MACHINE_H
#define KERNEL_MACHINE_H

#include <stdint.h>

#include "examples/embed/port.h"

/* All of the machine's memory is mapped here. */
#define DIRECT_MAP UINT64_C(0xffff888000000000)

/* Before anything is printed. */
void machine_start(void);

void print(const char *text);
void print_hex(uint64_t number);

/* Ends the emulator: its exit status tells whether the tests passed. */
_Noreturn void machine_stop(int passed);

static inline uint64_t physical_of(const void *pointer)
{
	return (uint64_t)(uintptr_t)pointer - DIRECT_MAP;
}

static inline void *memory_at(uint64_t physical)
{
	return (void *)(uintptr_t)(physical + DIRECT_MAP);
}

static inline uint64_t machine_read_msr(uint32_t number)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
	return (uint64_t)high << 32 | low;
}

static inline void machine_write_msr(uint32_t number, uint64_t value)
{
	__asm__ volatile("wrmsr" ::"c"(number), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

#endif
