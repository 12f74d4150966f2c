/* quire-sim: runs simulations by their seeds; the first that fails is printed with its plan. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim/sim.h"

static int usage(void)
{
	fprintf(stderr, "usage: quire-sim [--seeds COUNT] [--from SEED] | --seed SEED\n"
			"  --seeds COUNT  run COUNT simulations (1000), from seed --from (1) on\n"
			"  --seed SEED    run one, and print what it does\n");
	return 2;
}

static int parse(const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 0);
	return errno || end == text || *end || *text == '-' ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
	static struct sim_plan plan;
	uint64_t from = 1, count = 1000;
	int one = 0;

	for (int i = 1; i < argc; i += 2) {
		one |= !strcmp(argv[i], "--seed");
		if (i + 1 == argc)
			return usage();
		if (!strcmp(argv[i], "--seeds") ? parse(argv[i + 1], &count)
		    : !strcmp(argv[i], "--seed") || !strcmp(argv[i], "--from")
			? parse(argv[i + 1], &from)
			: 1)
			return usage();
	}
	if (one)
		count = 1;
	sim_init();
	for (uint64_t seed = from; seed - from < count; seed++) {
		const char *failure;

		sim_plan_make(&plan, seed);
		plan.trace = one;
		if (one)
			sim_plan_print(&plan);
		failure = sim_run(&plan);
		if (!failure)
			continue;
		if (!one)
			sim_plan_print(&plan);
		printf("seed %" PRIu64 " failed: %s\n", seed, failure);
		return 1;
	}
	sim_destroy();
	printf("%" PRIu64 " simulations passed\n", count);
	return 0;
}
