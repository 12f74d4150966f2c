/* What an L2 access must come to, by definition: L1's tables, as they are in memory, and slots. */
#ifndef TESTS_GUEST_ORACLE_H
#define TESTS_GUEST_ORACLE_H

#include <stdint.h>

#define ORACLE_P 0x1ul
#define ORACLE_W 0x2ul
#define ORACLE_U 0x4ul
#define ORACLE_A 0x20ul
#define ORACLE_D 0x40ul
#define ORACLE_PS 0x80ul
#define ORACLE_NX (1ul << 63)
#define ORACLE_ADDRESS 0x0000fffffffff000ul
#define ORACLE_FINAL (1ul << 32) /* in the error code: not a table of L2's */

/* L1 physical memory as the client sees it. */
struct oracle_memory {
	uint64_t gpa, bytes;
	uint8_t *host;
	uint32_t is_rom;
};

/* An entry that L1 has changed and not flushed: translations may still have its old value. */
struct oracle_change {
	uint64_t at, old;
};

#define ORACLE_MEMORIES 8u
#define ORACLE_CHANGES 24u
#define ORACLE_EXACT 8u
#define ORACLE_SEEN 64u

struct oracle {
	struct oracle_memory memory[ORACLE_MEMORIES];
	uint32_t memories;
	uint64_t root;
	struct oracle_change changes[ORACLE_CHANGES];
	uint32_t change_count;
	struct {
		uint64_t page;
		uint32_t from; /* changes before are flushed for the page */
	} exact[ORACLE_EXACT];
	uint32_t exact_count;
};

enum oracle_access { ORACLE_READ, ORACLE_WRITE, ORACLE_FETCH };
enum oracle_kind { ORACLE_MEMORY, ORACLE_DEVICE, ORACLE_FAULT };

struct oracle_seen {
	enum oracle_kind kind;
	uint64_t gpa;	/* of L1; not of a fault */
	uint64_t error; /* of a fault */
	uint64_t leaf;	/* L1 physical address of the leaf entry */
};

struct oracle_set {
	uint32_t count;
	uint32_t is_full;		      /* there may be more */
	struct oracle_seen seen[ORACLE_SEEN]; /* the first: by the tables as they are */
};

uint8_t *oracle_host(const struct oracle *oracle, uint64_t gpa);
/* All that an access may come to, given what has not been flushed. */
void oracle_look(const struct oracle *oracle, uint64_t gpa, enum oracle_access access,
		 struct oracle_set *set);

/* L1 is about to store an entry at @at. 0: too much is unflushed already. */
int oracle_note_change(struct oracle *oracle, uint64_t at);
void oracle_note_flush(struct oracle *oracle);
void oracle_note_page_flush(struct oracle *oracle, uint64_t gpa);

#endif
