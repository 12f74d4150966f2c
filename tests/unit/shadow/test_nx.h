/* NX huge pages on shadow pages. */
#ifndef QUIRE_TESTS_SHADOW_NX_H
#define QUIRE_TESTS_SHADOW_NX_H

/* Nonzero when a test failed. */
int nx_tests(void);

#endif
