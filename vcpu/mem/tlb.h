/* What a vCPU remembers of walks, as data: data, code, tables, jumps. */
#ifndef QUIRE_VCPU_MEM_TLB_H
#define QUIRE_VCPU_MEM_TLB_H

#include <stdint.h>

/*
 * The data TLB: two ways, because one instruction may need two pages of one set. Tags are the
 * page's linear address with the privilege of the access in the low bits; TLB_EMPTY matches
 * nothing. A write tag stands only when the stage-2 leaf and the guest's are writable and dirty and
 * the page holds no decoded code.
 */
#define TLB_SETS 512u
#define TLB_WAYS 2u
#define TLB_EMPTY (~UINT64_C(0))

/* Privilege in the tags. */
enum tlb_mode {
	TLB_SUPERVISOR = 0,
	TLB_USER = 1,
	TLB_SMAP = 2, /* supervisor that may not touch user pages */
	/* A user whose accesses must be aligned. No access is cached, so each takes the slow path,
	 * which checks; and nothing runs translated. */
	TLB_ALIGNED = 3,
};

struct tlb_entry {
	uint64_t read, write;
	uint64_t addend; /* host address - linear address */
	uint64_t global;
};

struct code_page;

struct fetch_entry {
	uint64_t tag;
	uint64_t host_page;
	struct code_page *page; /* decoded from it; NULL: look it up */
	uint64_t global;
};

#define FETCH_SETS 256u

struct block;

/*
 * Which block starts at an address of 64-bit code. Surely so as long as nothing was flushed since:
 * then cpu->jump_generation still has the same value. The block's page says whether its bytes are
 * good.
 */
struct jump_entry {
	uint64_t tag; /* RIP and privilege */
	struct block *block;
	uint64_t generation;
};

#define JUMP_SETS 4096u

/*
 * Where the guest's lowest-level table for 2 MiB of linear addresses is, or the large page that
 * they are part of: what processors call a paging-structure cache. Dropped with every flush, of one
 * page too, as INVLPG does.
 */
struct table_entry {
	uint64_t tag;	    /* linear >> 21 */
	uint64_t gpa;	    /* of the table */
	uint64_t host;	    /* where it is, for reading */
	uint64_t leaf;	    /* the guest's entry of a large page; 0: there is a table */
	uint64_t rights;    /* of the levels above the leaf, as a walk gathers them */
	unsigned int shift; /* of the leaf */
};

#define TABLE_SETS 64u

/*
 * Large pages are cached by 4 KiB. A bit says that some piece of a large page in a region was
 * cached since the last full flush: of 4 MiB, the largest but for 1 GiB, or of 1 GiB. Other regions
 * share it, so that it may be set in vain.
 */
#define LARGE_SHIFT 22u
#define GIGANTIC_SHIFT 30u
#define LARGE_BITS 512u

/*
 * What was cached of an address space when CR3 went on to another PCID. The TLB itself has
 * translations of the PCID in CR3, and global ones, so that no look-up knows PCIDs.
 * The PCID in CR3 has no space, and no two spaces have the same.
 */
#define TLB_SPACES 12u /* Linux uses six PCIDs, or twice as many with PTI */
#define SPACE_DATA 64u
#define SPACE_FETCHES 32u

struct tlb_space {
	unsigned int data_count, fetch_count;
	struct tlb_entry data[SPACE_DATA]; /* the newest first */
	struct fetch_entry fetch[SPACE_FETCHES];
};

struct tlb {
	struct tlb_entry data[TLB_WAYS][TLB_SETS];
	struct fetch_entry fetch[FETCH_SETS];
	struct table_entry table[TABLE_SETS];
	struct jump_entry jump[JUMP_SETS];
	uint64_t large[LARGE_BITS / 64], gigantic[LARGE_BITS / 64];
	/* A bit for each entry: it may be of a page that is not global. */
	uint64_t local[TLB_WAYS][TLB_SETS / 64];
	uint64_t local_fetch[FETCH_SETS / 64];
	uint64_t space_cr3[TLB_SPACES]; /* each with its PCID; TLB_EMPTY: the space is free */
	struct tlb_space space[TLB_SPACES];
	unsigned int next_space; /* to be used again when none is free */
};

#endif
