/* A CPU and its RAM: with the library faked, or with the library on a processor without stage 2. */
#ifndef TESTS_UNIT_VCPU_MACHINE_H
#define TESTS_UNIT_VCPU_MACHINE_H

#include <stddef.h>

#include "tests/unit/vcpu/guest_state.h"

struct machine {
	struct cpu *cpu;
	uint8_t *ram;
	int has_keys; /* CPUID offers protection keys */
	void *private;
};

/* Once in a program. */
void machines_start(void);
/* A CPU in guest_enter_long_mode()'s state; it has no tables yet. */
void machine_create(struct machine *machine);
void machine_destroy(struct machine *machine);
/* The guest's page tables are written as a hypervisor writes them. */
void machine_write(struct machine *machine, uint64_t gpa, const void *bytes, size_t size_bytes);

#endif
