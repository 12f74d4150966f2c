/* A bare machine's part of a walker, and what all machines share. */
#ifndef QUIRE_TESTS_WALKERS_WALKER_H
#define QUIRE_TESTS_WALKERS_WALKER_H

#include "tests/walkers/probes.h"

/* Called by the machine's first instructions. Makes the accesses and says what came of each. */
void walker_main(void);

/* The machine's: a character goes to the serial line. */
void walker_say(char c);
/* The processor walks the tables from here on. */
void walker_prepare(const struct probe_set *set);
/* The cause of the fault or call that ended the access; what was read is in *@value. */
uint64_t walker_touch(const struct probe *probe, uint64_t index, uint64_t *value);
void walker_stop(void);

#endif
