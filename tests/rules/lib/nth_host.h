/* The calls of a host, of which the Nth fails (struct nth). */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_HOST_H
#define QUIRE_TESTS_RULES_LIB_NTH_HOST_H

#include "tests/rules/lib/nth.h"

/* Errors of one call; 0 ends them. */
#define NTH_ERRORS_MAX 6u
/* Among a system call's: it fails with -ENOMEM, and so does each after it. */
#define NTH_ALL_LATER INT32_MIN

/* Counts a call that may fail with each of @errors. The one that it fails with now; 0: none. */
int nth_fails(const char *name, const int errors[NTH_ERRORS_MAX]);

/* @real with every call that may fail counted, and what is given out. */
struct quire_host_ops nth_failing_ops(const struct quire_host_ops *real);

/* Hardware whose calls fail, too, and which does nothing. */
extern const struct quire_confidential_ops nth_confidential;

#endif
