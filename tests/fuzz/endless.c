/* A fuzzer two of whose kinds of steps have no end, the second one with signals blocked. */
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "tests/fuzz/target.h"

enum { FINE, ENDLESS, ENDLESS_AND_DEAF, KINDS };

static void nothing(void)
{
}

static int step(unsigned int kind, struct fuzz_random *random)
{
	sigset_t all;

	(void)random;
	if (kind == FINE)
		return 1;
	sigfillset(&all);
	if (kind == ENDLESS_AND_DEAF)
		sigprocmask(SIG_SETMASK, &all, NULL);
	for (;;)
		pause();
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .seconds = 1,
    .start = nothing,
    .begin = nothing,
    .step = step,
    .end = nothing,
};
