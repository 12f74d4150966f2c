/* quire-sim: runs simulations by their seeds; the first that fails is printed with its plan. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/sim/sim.h"
#include "src/entry/format.h"

static int parse(const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 0);
	return errno || end == text || *end || *text == '-' ? -EINVAL : 0;
}

struct options {
	uint64_t from, count;
	int one;	    /* of the seed @from, and what it does is printed */
	const char *format; /* of all tables; NULL: as the seeds say */
};

enum { SIM_SEEDS, SIM_FROM, SIM_SEED, SIM_FORMAT };

static const struct cli_option sim_options[] = {
    {"seeds", "COUNT", "run COUNT simulations (1000)", SIM_SEEDS},
    {"from", "SEED", "the first seed (1)", SIM_FROM},
    {"seed", "SEED", "run one, and print what it does", SIM_SEED},
    {"format", "NAME", "tables of this format alone: npt, ept, sv39x4 ...", SIM_FORMAT},
    {0},
};

/* The number of the format called @name; -1: there is none. */
static int find_format(const char *name)
{
	for (int format = 0; format < ENTRY_FORMATS; format++)
		if (!strcmp(entry_formats[format]->name, name))
			return format;
	return -1;
}

static int take_option(void *ctx, int key, const char *value)
{
	struct options *options = ctx;

	if (key == SIM_FORMAT) {
		options->format = value;
		return find_format(value) < 0 ? -EINVAL : 0;
	}
	options->one |= key == SIM_SEED;
	return parse(value, key == SIM_SEEDS ? &options->count : &options->from);
}

static const struct cli_command sim_command = {
    .name = "quire-sim",
    .about = "Run simulations by their seeds; the first that fails is printed with its plan.",
    .options = sim_options,
    .take = take_option,
};

int main(int argc, char **argv)
{
	static struct sim_plan plan;
	struct options options = {.from = 1, .count = 1000};
	int rest, status;

	status = cli_parse(&sim_command, argc, argv, &options, &rest);
	if (status != CLI_GO_ON)
		return status;
	if (options.one)
		options.count = 1;
	sim_init();
	for (uint64_t seed = options.from; seed - options.from < options.count; seed++) {
		const char *failure;

		progress_tell(seed - options.from, options.count);
		sim_plan_make(&plan, seed);
		/* Shadow pages have a format of their own. */
		if (options.format && plan.mmu == QUIRE_MMU_TDP)
			plan.format = (enum quire_format_id)find_format(options.format);
		plan.trace = options.one;
		if (options.one)
			sim_plan_print(&plan);
		failure = sim_run(&plan);
		if (!failure)
			continue;
		if (!options.one)
			sim_plan_print(&plan);
		printf("seed %" PRIu64 " failed: %s\n", seed, failure);
		return 1;
	}
	sim_destroy();
	printf("%" PRIu64 " simulations passed\n", options.count);
	return 0;
}
