/* What translated code reads and writes by the address of struct cpu alone. */
#ifndef QUIRE_VCPU_TRANSLATE_FAST_H
#define QUIRE_VCPU_TRANSLATE_FAST_H

#include <stdint.h>

#define FAST_MODES 3u	 /* enum tlb_mode, without TLB_ALIGNED */
#define FAST_SETS 16384u /* 64 MiB */
#define FAST_JUMPS 1024u
#define FAST_JUMP_PAGES 4096u
#define FAST_NUMBERS 65u /* what a unit may add: up to BLOCK_OPS_MAX */

/*
 * A tag is the negated page address, so that tag + address of the last byte is below 4096 when the
 * access hits and stays inside the page: found out by LEA, SHRX and JRCXZ, which leave the flags
 * alone.
 *
 * An empty tag is 0, so that memory fresh from the kernel is an empty table and takes no room. It
 * matches page 0 alone, which belongs to set 0, and an access of the last set that goes on behind
 * the highest address. The pattern of an empty tag in these two matches addresses that are not
 * canonical; what is added to those leads nowhere, so they fault.
 */
#define FAST_EMPTY_AT_ENDS UINT64_C(0x4040404040404040)

/* Which sets of a table may be in use: all others are empty. */
struct fast_sets {
	uint64_t words[FAST_SETS / 64 / 64]; /* a bit for each word of @sets that is not 0 */
	uint64_t sets[FAST_SETS / 64];
};

struct fast {
	/* By RIP: its negative, where its translation is, and the epoch of its page. */
	uint64_t jump[FAST_MODES][FAST_JUMPS];
	uint64_t jump_code[FAST_MODES][FAST_JUMPS];
	uint64_t *jump_epoch[FAST_MODES][FAST_JUMPS];
	uint64_t jump_local[FAST_MODES][FAST_JUMPS / 64]; /* bits: what is not global */
	/* A bit for pages that a jump may lead to; several pages share one. */
	uint64_t jump_pages[FAST_JUMP_PAGES / 64];
	uint64_t tlb_bits, jump_bits; /* of an address: which make the set */
	uint64_t
	    low_bits[5]; /* 0, 1, 3 ... 15: an address aligned to 1, 2, 4, 8, 16 bytes has none */
	uint64_t vectors_refused; /* not 0: SSE instructions raise #UD or #NM, by CR0 and CR4 */
	uint64_t epoch_negated;	  /* of cpu->code_epoch */
	uint64_t rip_page;	  /* linear address of the page that runs */
	uint64_t scratch;
	uint64_t entry;	   /* where to begin */
	uint64_t host_rsp; /* while translated code runs */
	/*
	 * Instructions that retired since the code was entered, less those of the first unit that
	 * stand before the entry: in XMM0 while it runs.
	 */
	uint64_t retired;
	_Alignas(16) uint64_t number[FAST_NUMBERS][2]; /* 0, 1, 2 ...: what PADDQ adds to it */
	uint32_t flags;				       /* AX as LAHF and SETO AL leave it */
	uint32_t exit; /* why it came back: enum exit_kind, operation, unit */
	/* Those that hold anything; and of these what may not be global. */
	struct fast_sets used[FAST_MODES], local[FAST_MODES];
	/* Last, since they are large: what a guest does not use of them takes no memory. */
	uint64_t read[FAST_MODES][FAST_SETS], write[FAST_MODES][FAST_SETS];
	uint64_t addend[FAST_MODES][FAST_SETS]; /* host address - linear address */
};

#endif
