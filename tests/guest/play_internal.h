/* What the files of the random L1 share. */
#ifndef TESTS_GUEST_PLAY_INTERNAL_H
#define TESTS_GUEST_PLAY_INTERNAL_H

#include "play.h"

/* L1's nested tables by page: the fixed ones, then those that change. */
enum play_table { T_PML4, T_PDPT, T_LOW_PD, T_LOW_PT, T_FIRST_PD, T_FIRST_PT = 6 };

/* L2's code and its two tables: where in L1's own memory, and at which L2 address. */
#define PLAY_L2_CODE NEST_FREE
#define PLAY_L2_TABLES (PLAY_L2_CODE + PAGE)
#define PLAY_L2_CODE_GPA 0x1000ul
/* L1's tables as L2 sees them. */
#define PLAY_ALIAS 0x10000ul
/* Where in each page of data a jump may go. */
#define PLAY_LANDING 0xff0ul

void play_set_slot(struct play *play, struct vm *vm, enum play_slot which, uint32_t flags);
struct play_memory *play_memory_at(struct play *play, uint64_t gpa);
/* The word at @gpa of L1 is @value now, by a write of a guest. */
void play_note_write(struct play *play, uint64_t gpa, const uint64_t *value);
/* L1's own store and load. */
void play_store(struct play *play, uint64_t at, uint64_t value);
uint64_t play_load(struct play *play, uint64_t at);
/* Each entry that may change gets a value. */
void play_fill_tables(struct play *play);
/* The next VMRUN flushes. */
void play_flush(struct play *play);

#endif
