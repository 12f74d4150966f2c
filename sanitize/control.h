/* What the processes of a run with --sanitize share with its command: a file that all map. */
#ifndef QUIRE_SANITIZE_CONTROL_H
#define QUIRE_SANITIZE_CONTROL_H

#include <stdint.h>

/*
 * The file is "sanitize" in the run's directory. The command makes it with room for all of it and
 * fills in what is wanted; a process claims a record for each thing that it finds. All processes of
 * the run claim from the same records, so a thing is reported once a run.
 */
#define SANITIZE_CONTROL "sanitize"

enum sanitize_kind {
	SANITIZE_TLB,	  /* a guest used a translation of memory that is gone */
	SANITIZE_PRIVATE, /* the client touched memory that its guest holds private */
	SANITIZE_DIRTY,	  /* the client wrote a logged page, and the log does not say so */
	SANITIZE_SLOT,	  /* memory of a slot was unmapped or reused */
	SANITIZE_KINDS,
};

/* Of a stack; what is further out is left out. */
#define SANITIZE_FRAMES 24u
/* Things that a run reports. */
#define SANITIZE_RECORDS 128u
#define SANITIZE_RULES 256u
#define SANITIZE_PATTERN_BYTES 124u
#define SANITIZE_WORDS_BYTES 256u

/* An address by names that are the same in the next run. Texts are cut where they are too long. */
struct sanitize_place {
	uint64_t address;  /* of the instruction; of a caller, the last byte of its call */
	uint64_t offset;   /* as addr2line takes it: in the ELF file's own addresses */
	char module[160];  /* the file, or a word in brackets; empty: nothing is mapped there */
	char function[80]; /* empty: the file names none there */
};

struct sanitize_places {
	uint32_t tid;
	uint32_t count;	       /* innermost first */
	uint32_t place_frames; /* struct sanitize_stack */
	struct sanitize_place list[SANITIZE_FRAMES];
};

enum sanitize_state {
	SANITIZE_UNFINISHED, /* free, or still being written */
	SANITIZE_FOUND,
	SANITIZE_SUPPRESSED,
};

struct sanitize_record {
	uint64_t key;	/* 0: free; claimed by compare-exchange */
	uint32_t state; /* enum sanitize_state; released when the rest is written */
	uint32_t kind;
	uint32_t pid;
	uint32_t slot;			 /* SANITIZE_NO_SLOT: none */
	uint64_t detail;		 /* tells findings of the same stacks apart */
	uint64_t guest_start, guest_end; /* bytes; empty: none */
	uint64_t host_start, host_end;
	char what[SANITIZE_WORDS_BYTES];
	char mapped[SANITIZE_WORDS_BYTES];
	struct sanitize_places used, changed;
};

#define SANITIZE_NO_SLOT UINT32_MAX

/* One line of the suppressions file. */
struct sanitize_rule {
	uint32_t kind;
	char pattern[SANITIZE_PATTERN_BYTES];
};

struct sanitize_control {
	uint32_t kinds; /* bits by enum sanitize_kind */
	uint32_t rule_count;
	uint32_t is_full; /* there was a thing for which no record was left */
	struct sanitize_rule rules[SANITIZE_RULES];
	struct sanitize_record records[SANITIZE_RECORDS];
};

/* "tlb" and its kin, by enum sanitize_kind. */
extern const char *const sanitize_kind_names[SANITIZE_KINDS];

#endif
