/* The groups of tests that test_shadow.c runs, one for each file: nonzero when a test failed. */
#ifndef QUIRE_TESTS_SHADOW_GROUPS_H
#define QUIRE_TESTS_SHADOW_GROUPS_H

int age_tests(void);
int count_tests(void);
int entry_tests(void);
int fault_tests(void);
int hold_tests(void);
int limit_tests(void);
int meanwhile_tests(void);
int neighbour_race_tests(void);
int neighbour_tests(void);
int no_memory_tests(void);
int nx_tests(void);
int paging_tests(void);
int path_tests(void);
int race_tests(void);
int set_tests(void);
int split_tests(void);
int turn_tests(void);
int unsync_others_tests(void);
int unsync_race_tests(void);
int unsync_tests(void);
int view_tests(void);
int walk_tests(void);
int way_tests(void);

#endif
