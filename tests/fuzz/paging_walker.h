/* A walk of a guest's page tables that shares nothing with the CPU's: from the manual, entry by
 * entry. */
#ifndef QUIRE_TESTS_FUZZ_PAGING_WALKER_H
#define QUIRE_TESTS_FUZZ_PAGING_WALKER_H

#include <stdint.h>

#define WALKER_LEVELS_MAX 5u

struct walker_modes {
	uint8_t levels; /* 2: 32-bit; 3: PAE; 4 and 5: long mode */
	uint8_t wp, pse, smep, smap, nxe, pke;
	uint8_t pge, pcide; /* a walk does not depend on them */
	uint32_t pkru;
	uint64_t root;
};

enum walker_kind { WALKER_READ, WALKER_WRITE, WALKER_FETCH, WALKER_KINDS };

struct walker_access {
	uint64_t linear;
	enum walker_kind kind;
	uint8_t user, ac;
};

struct walker_memory {
	const uint8_t *ram;
	uint64_t size_bytes;
};

enum walker_end {
	WALKER_DONE,
	WALKER_FAULT,
	WALKER_OUTSIDE, /* a table is not in memory */
};

struct walker_entry {
	uint64_t gpa, value;
	uint8_t has_marks; /* A, and D in a leaf */
};

struct walker_result {
	enum walker_end end;
	uint32_t error; /* of the fault */
	uint64_t gpa;	/* of the access */
	unsigned int count, is_complete;
	struct walker_entry
	    path[WALKER_LEVELS_MAX]; /* from the root; the last is the leaf if complete */
};

struct walker_result walker_walk(struct walker_memory memory, const struct walker_modes *modes,
				 const struct walker_access *access);

#endif
