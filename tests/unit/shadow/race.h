/* Two threads in one world, in every interleaving with few preemptions. */
#ifndef QUIRE_TESTS_SHADOW_RACE_H
#define QUIRE_TESTS_SHADOW_RACE_H

#include <stddef.h>

#include "tests/unit/shadow/world.h"

struct CMUnitTest;

/* How many preemptions these explorations try: 2, or fewer where a bug is looked for. */
extern uint32_t race_preemptions;
/* Do faults map the neighbours, too? Each is a few steps more, and half as many runs again. */
extern bool race_has_neighbours;
/* The threads run @body after @make; @check ends each run, and says if it was good. */
void race_explore(void (*make)(void *), void (*body)(uint32_t, void *), bool (*check)(void *));
/* With one preemption, where two are a hundred thousand runs. */
void race_explore_once(void (*make)(void *), void (*body)(uint32_t, void *), bool (*check)(void *));

/*
 * Run the tests on @world's host: nonzero when one failed. Each starts and stops VMs of its own:
 * there is none before and after it.
 */
int race_run(struct world *world, const char *name, const struct CMUnitTest *tests, size_t count);

/* From the root's first entry down to TABLE_4K, before L1 runs. */
void race_path(struct world *world, uint64_t rights);

#endif
