/* Guests without a second stage. */
#ifndef QUIRE_TESTS_SHADOW_PAGING_H
#define QUIRE_TESTS_SHADOW_PAGING_H

/* Nonzero when a test failed. */
int paging_tests(void);

#endif
