/* Decoded code: blocks of operations, found by the host address of their first byte. */
#ifndef QUIRE_VCPU_DECODE_CODE_H
#define QUIRE_VCPU_DECODE_CODE_H

#include "vcpu/decode/code_page.h"

#define BLOCK_OPS_MAX 64u
#define INSN_MAX 15u

/*
 * Operations hold no address of their own, so a block is keyed by where its bytes are and by the
 * mode they are decoded for, and serves every linear address that leads there.
 */
struct block {
	struct block *next;	/* of the same line */
	struct code_page *page; /* of the first byte; a page of no epoch once dropped */
	uint64_t host;		/* of the first byte */
	uint16_t op_count;
	uint16_t size_bytes;
	uint8_t code_bytes;
	uint8_t crosses; /* one instruction over two pages: compared with both when it is found */
	uint8_t crossing[INSN_MAX]; /* its bytes */
	struct code_page *second;   /* and where it ends, when it was found last */
	uint8_t runs;		    /* since it was made, or translated */
	uint8_t never;		    /* too little of it can be translated */
	struct unit *unit[FAST_MODES];
	struct op ops[];
};

/* Allocate the cache of @cpu: 0 or -ENOMEM. */
int code_create(struct cpu *cpu);
void code_destroy(struct cpu *cpu);

/* code_find() when the jump cache does not know. */
enum step code_find_slow(struct cpu *cpu, struct block **found);

/* Where the code at CS:RIP is. */
static inline uint64_t code_linear(const struct cpu *cpu)
{
	if (likely(cpu->code_bytes == 8))
		return cpu->s.rip;
	return (uint32_t)(cpu->s.seg[CPU_CS].base + cpu->s.rip);
}

/*
 * A linear address is canonical, so the privilege in bits 57 and 58 makes no two tags equal; nor
 * does the mode in bits 61 and 62 where addresses have 32 bits.
 */
static inline uint64_t jump_tag(const struct cpu *cpu, uint64_t linear)
{
	uint64_t mode = cpu->code_bytes & 6;

	return linear ^ (uint64_t)cpu->tlb_mode << 57 ^ mode << 60;
}

static inline struct jump_entry *jump_entry_of(const struct cpu *cpu, uint64_t linear)
{
	return &cpu->tlb->jump[(linear ^ linear >> 10) % JUMP_SETS];
}

/*
 * The block at CS:RIP, whose bytes have been equal to memory since the last serialising event.
 * STEP_ABORT: cpu->stop (page fault, stage-2 fault, code in a device).
 */
static inline enum step code_find(struct cpu *cpu, struct block **found)
{
	uint64_t linear = code_linear(cpu);
	const struct jump_entry *entry = jump_entry_of(cpu, linear);

	if (likely(entry->tag == jump_tag(cpu, linear) &&
		   entry->generation == cpu->jump_generation &&
		   entry->block->page->epoch == cpu->code_epoch &&
		   (cpu->code_bytes == 8 || cpu->s.rip <= cpu->s.seg[CPU_CS].limit))) {
		*found = entry->block;
		return STEP_NEXT;
	}
	return code_find_slow(cpu, found);
}

/* Every page of code is compared with memory before its next use. */
static inline void code_serialise(struct cpu *cpu)
{
	cpu->code_epoch++;
	cpu_count(&cpu->counts.serialisations);
}

/*
 * Was @page not compared in this epoch, and is it equal to memory now? Else nothing has happened,
 * and code_find() is to see to it.
 */
int code_page_confirm(struct cpu *cpu, struct code_page *page);

/* Does this CPU hold decoded code of the host page of @host? */
int code_is_on_page(const struct cpu *cpu, uint64_t host);
/* This CPU wrote [host, host + size) of a page that may hold code. Drops the blocks whose lines it
 * hit, and stops the running block. */
void code_note_write(struct cpu *cpu, uint64_t host, unsigned int size_bytes);

/* The bytes of the running instruction, for an exit: how many of the 15 were there. */
unsigned int code_bytes_at_rip(struct cpu *cpu, uint8_t bytes[15]);

#endif
