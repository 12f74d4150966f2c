/* The translator of hot blocks: machine code beside the interpreter's operations. */
#ifndef QUIRE_VCPU_TRANSLATE_TRANSLATE_H
#define QUIRE_VCPU_TRANSLATE_TRANSLATE_H

#include "vcpu/decode/code.h"

/* One block's code, for one privilege mode. */
struct unit;

/*
 * Get ready to translate what ran @runs times. Where the machine lacks an instruction or refuses
 * executable memory, cpu->translate stays NULL and the interpreter serves.
 */
void translate_create(struct cpu *cpu, unsigned int runs);
void translate_destroy(struct cpu *cpu);
/* Before the first run: check each instruction against the interpreter. Nonzero: it cannot be. */
int translate_lockstep(struct cpu *cpu);

/* The code of @block for the present mode if it has some: hot blocks are translated here. */
struct unit *translate_hot(struct cpu *cpu, struct block *block);

/*
 * Run @unit, which is RIP's, and what it leads to. As a block of the interpreter: RIP stands behind
 * the last instruction that retired, and the result says why it stopped.
 */
enum step translate_run(struct cpu *cpu, struct unit *unit);

/* Translations of addresses have changed: all, all but global ones, those of a page, or those of
 * 1 << @shift bytes. */
void translate_flush(struct cpu *cpu);
void translate_flush_non_global(struct cpu *cpu);
void translate_flush_page(struct cpu *cpu, uint64_t linear);
void translate_flush_region(struct cpu *cpu, uint64_t linear, unsigned int shift);
/* @entry, which is not global, is in the interpreter's TLB again. */
void translate_take(struct cpu *cpu, const struct tlb_entry *entry);
/* Stores to @host_page go through the interpreter from now on. */
void translate_protect(struct cpu *cpu, uint64_t host_page);
/* The code of @page is out of date. */
void translate_drop_page(struct cpu *cpu, struct code_page *page);
/* Every block is about to go. */
void translate_reset(struct cpu *cpu);

#endif
