/* Random changes of L1's tables, the slots and the host, with L2 compared after each. */
#ifndef QUIRE_TESTS_SHADOW_RANDOM_H
#define QUIRE_TESTS_SHADOW_RANDOM_H

#include "tests/unit/shadow/world.h"

/* @steps steps; the same @seed gives the same. */
void world_random(struct world *world, uint64_t seed, uint32_t steps);

#endif
