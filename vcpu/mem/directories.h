/* PAE's four page directory pointers, which KVM's processors look at when a mode begins. */
#ifndef QUIRE_VCPU_MEM_DIRECTORIES_H
#define QUIRE_VCPU_MEM_DIRECTORIES_H

#include "vcpu/inside.h"

/* Bits of physical addresses, by the guest's CPUID. */
uint8_t directories_phys_bits(struct cpu *cpu);
/*
 * Can the four that @cr3 names be read, and has none that is present a reserved bit? Not kept:
 * under nested paging a walk reads the one that it needs. Leaves guest mode.
 */
int directories_will_do(struct cpu *cpu, uint64_t cr3);
/* The same; and a processor without a second stage keeps them from here on, if they will do. */
int directories_load(struct cpu *cpu, uint64_t cr3);

#endif
