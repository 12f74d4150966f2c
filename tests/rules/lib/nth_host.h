/* The calls of a host, of which the Nth fails (struct nth). */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_HOST_H
#define QUIRE_TESTS_RULES_LIB_NTH_HOST_H

#include "tests/rules/lib/nth.h"

/* @real with every call that may fail counted, and what is given out. */
struct quire_host_ops nth_failing_ops(const struct quire_host_ops *real);

/* Hardware whose calls fail, too, and which does nothing. */
extern const struct quire_confidential_ops nth_confidential;

#endif
