/* Holds of mmu_lock in which a test changes shadow tables itself. */
#ifndef QUIRE_TESTS_SHADOW_BY_HAND_H
#define QUIRE_TESTS_SHADOW_BY_HAND_H

#include "src/shadow/shadow.h"
#include "tests/unit/shadow/world.h"

/* A gfn that holds no table of L1's. */
#define SOME_GFN 900u

extern struct world world;
extern struct flush_debt debt;
extern struct shadow_change change;
extern struct shadow *shadow;
/* What the lock's holder keeps from what is tested. */
extern struct object_cache hidden_objects;
extern struct table_cache hidden_tables;

/* L2 has loaded its root; there is no leaf. */
int by_hand_setup(void **state);
/* The lock is taken, with enough in hand for many splits and their pages. */
void begin(void);
void end(void);
/* Hide all but @count. */
void keep_objects(struct object_cache *cache, u32 count);
void keep_tables(struct table_cache *cache, u32 count);
/* Made, for all rights. */
struct shadow_page *page_get(u32 role, uint64_t gfn);
/* What entry @index of @page leads to; NULL: it is a leaf. */
struct shadow_page *child_of(const struct shadow_page *page, u32 index);

#endif
