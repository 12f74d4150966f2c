/* Decoded code: blocks of operations, found by the host address of their first byte. */
#ifndef QUIRE_VCPU_CODE_H
#define QUIRE_VCPU_CODE_H

#include "vcpu/internal.h"

#define BLOCK_OPS_MAX 64u

/*
 * Operations hold no address of their own, so a block is keyed by where its bytes are and by the
 * mode they are decoded for, and serves every linear address that leads there.
 */
struct block {
	struct block *next; /* of the same hash */
	uint64_t host;	    /* of the first byte */
	uint64_t stamp;	    /* when its bytes were last compared with memory */
	uint16_t op_count;
	uint16_t size_bytes;
	uint8_t code_bytes;
	uint8_t crosses; /* one instruction over two pages: compared at every use */
	struct op ops[];
	/* size_bytes of code follow the operations. */
};

/* Allocate the cache of @cpu: 0 or -ENOMEM. */
int code_create(struct cpu *cpu);
void code_destroy(struct cpu *cpu);

/* The block at CS:RIP. STEP_ABORT: cpu->stop (page fault, stage-2 fault, code in a device). */
enum step code_find(struct cpu *cpu, struct block **found);

/* Every block is compared with memory before its next use. */
void code_serialise(struct cpu *cpu);

/* Does this CPU hold decoded code of the host page of @host? */
int code_is_on_page(const struct cpu *cpu, uint64_t host);
/* This CPU wrote [host, host + size) of a page that may hold code. Stops the running block when it
 * hit decoded bytes. */
void code_note_write(struct cpu *cpu, uint64_t host, unsigned int size_bytes);

/* The bytes of the running instruction, for an exit: how many of the 15 were there. */
unsigned int code_bytes_at_rip(struct cpu *cpu, uint8_t bytes[15]);

#endif
