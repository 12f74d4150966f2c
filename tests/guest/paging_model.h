/* What the manual says of one access through two stages of paging, from the bits alone. */
#ifndef TESTS_GUEST_PAGING_MODEL_H
#define TESTS_GUEST_PAGING_MODEL_H

#include <stdint.h>

/* The bits of an entry that decide. */
enum paging_bits {
	BIT_P = 1,
	BIT_W = 2,
	BIT_U = 4,
	BIT_NX = 8,
	BIT_RESERVED = 16,
	BITS_ALL = 32, /* so many combinations */
	BITS_OPEN = BIT_P | BIT_W | BIT_U,
};

/* A and D before and after, of the same entry. */
enum paging_marks { MARK_A = 1, MARK_D = 2 };

enum paging_access { PAGING_READ, PAGING_WRITE, PAGING_FETCH, PAGING_ACCESSES };

/* The entries that a case is about; all others are open. */
enum paging_entry {
	GUEST_PARENT, /* of the leaf, in the guest's tables */
	GUEST_LEAF,
	NESTED_PARENT, /* in L1's tables, on the way to the page */
	NESTED_LEAF,
	NESTED_TABLE, /* L1's leaf for the guest's lowest table */
	PAGING_ENTRIES
};

struct paging_case {
	uint8_t bits[PAGING_ENTRIES];
	uint8_t marks[PAGING_ENTRIES];
	uint8_t guest_level, nested_level; /* of the leaves: 1 to 3; nested 0: one stage alone */
	uint8_t access;
	uint8_t user, wp, smep, smap, ac, nxe; /* of the guest */
	uint8_t nested_nxe;
};

enum paging_end {
	PAGING_DONE,
	PAGING_GUEST_FAULT,
	PAGING_NESTED_TABLE_FAULT, /* on the way through the guest's tables */
	PAGING_NESTED_FAULT,
};

struct paging_result {
	enum paging_end end;
	uint32_t error; /* the low half */
	/* What must be set afterwards and what may not be, for each entry. */
	uint8_t set[PAGING_ENTRIES], clear[PAGING_ENTRIES];
};

struct paging_result paging_model(const struct paging_case *c);

#endif
