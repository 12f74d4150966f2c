/* Locks and waits as pairs of their own. */
#ifndef QUIRE_TESTS_SIM_ORDER_PRIMITIVES_H
#define QUIRE_TESTS_SIM_ORDER_PRIMITIVES_H

#include "tests/sim/pairs.h"

extern const struct pair pairs_primitive[];
extern const struct pair pairs_part[];
extern const struct pair pairs_base[];
extern const struct pair pairs_tables[];
extern const struct pair pairs_shadow[];
extern const struct pair pairs_gmem_part[];
extern const struct pair pairs_vm_part[];

#endif
