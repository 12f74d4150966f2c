/* Random changes of L1's tables, the slots and the host, with L2 compared after each. */
#ifndef QUIRE_TESTS_SHADOW_RANDOM_H
#define QUIRE_TESTS_SHADOW_RANDOM_H

#include "tests/unit/shadow/world.h"

/* @steps steps; the same @seed gives the same. */
void world_random(struct world *world, uint64_t seed, uint32_t steps);

/* tests/unit/shadow/test_split.c: nonzero when one failed. */
int split_tests(void);
int limit_tests(void);
/* tests/unit/shadow/test_unsync.c */
int unsync_tests(void);
/* tests/unit/shadow/test_races.c */
int race_tests(void);
/* tests/unit/shadow/test_age.c */
int age_tests(void);
/* tests/unit/shadow/test_unsync_races.c */
int unsync_race_tests(void);

/* How many preemptions these explorations try: 2, or fewer where a bug is looked for. */
extern uint32_t race_preemptions;
/* Two threads run @body after @make in every interleaving with few preemptions; @check ends each.
 */
void race_explore(void (*make)(void *), void (*body)(uint32_t, void *), bool (*check)(void *));

#endif
