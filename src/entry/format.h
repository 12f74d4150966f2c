/* What one word of a stage-2 table means: NPT and EPT as constant descriptors. */
#ifndef QUIRE_ENTRY_FORMAT_H
#define QUIRE_ENTRY_FORMAT_H

#include <stdbool.h>
#include <quire/types.h>

/*
 * One descriptor a format. Every mask holds bits of a 64-bit entry. Hardware bits are those of the
 * processor manuals; software bits are free for us because the processor ignores them in a present
 * entry. entry/npt.c and entry/ept.c assert that the masks of a format do not overlap.
 */
struct entry_format {
	const char *name;
	/* The hardware's. */
	uint64_t readable;   /* all of these set: reads are allowed (NPT: P and U) */
	uint64_t writable;   /* W */
	uint64_t user;	     /* NPT: U, which every entry has; EPT: none */
	uint64_t executable; /* EPT: X; NPT: none */
	uint64_t noexec;     /* NPT: NX; EPT: none */
	uint64_t accessed;   /* A, set by the walker */
	uint64_t dirty;	     /* D, set by the walker in a leaf on a write */
	uint64_t large;	     /* leaf at level 2 and above */
	uint64_t memtype;    /* EPT: write-back and IPAT in a leaf */
	uint64_t hw_present; /* any of these set: the walker takes the entry as present */
	/* Ours. */
	uint64_t present;	/* software present */
	uint64_t host_writable; /* the host page may be written */
	uint64_t mmu_writable;	/* W is off at most for dirty logging */
	uint64_t nonpresent;	/* what an empty entry holds */
	uint64_t frozen;	/* an entry owned by one writer */
	/* MMIO entries: (entry & mmio_mask) == mmio_value. 0 when the format has none. */
	uint64_t mmio_mask;
	uint64_t mmio_value;
};

/* Bits 12..51 hold the address of a frame or of a lower table. */
#define ENTRY_ADDRESS_MASK UINT64_C(0x000ffffffffff000)

extern const struct entry_format entry_npt;
extern const struct entry_format entry_ept;

#endif
