/* One L1 that builds and changes nested tables at random, and what its L2 must see. */
#ifndef TESTS_GUEST_PLAY_H
#define TESTS_GUEST_PLAY_H

#include "nest.h"
#include "oracle.h"
#include "tests/fuzz/draws.h"

/* Blocks of 2 MiB from PLAY_DATA on; L2's windows show the first four through a 1 GiB leaf. */
#define PLAY_DATA(index) ((index)*0x2000000ul)
#define PLAY_TABLES(index) (0x30000000ul + (index)*0x100000ul)
enum play_slot { PLAY_SMALL, PLAY_HUGE, PLAY_ROM, PLAY_TABLE_SLOT, PLAY_SLOTS };
#define PLAY_TABLE_PAGES 14u
#define PLAY_PAGES_MAX 1024u

struct play_memory {
	uint32_t slot; /* id in the VM */
	uint32_t pages;
	uint64_t gpa;
	uint8_t *host;
	uint8_t *mirror; /* what it must contain; of tables: when last looked at */
	uint8_t written[PLAY_PAGES_MAX], reported[PLAY_PAGES_MAX];
};

struct play_counts {
	uint64_t turns, accesses, faults, devices, stale, changes, flushes;
};

struct play {
	struct nest nest;
	struct fuzz_random random;
	struct oracle oracle;
	struct play_memory memory[PLAY_SLOTS];
	uint64_t base; /* PLAY_DATA of it */
	uint64_t next_value;
	struct play_counts counts;
};

/* Memory for vCPU @index; once. */
void play_alloc(struct play *play, unsigned int index);
/* The VM's vCPU @index and its slots, all fresh. */
void play_open(struct play *play, struct vm *vm, unsigned int index, uint64_t seed);
void play_close(struct play *play);
/* So many random turns; ends the test when L2 sees what it must not. */
void play_turns(struct play *play, uint32_t count);
/* All memory holds what it must; notes which tables were written. */
void play_check_memory(struct play *play);

#endif
