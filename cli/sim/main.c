/* quire-sim: runs simulations by their seeds; the first that fails is made small, and told. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cli/sim/commit.h>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/sim/sim.h"
#include "hosts/sim/order.h"
#include "src/base/mutant.h"
#include "src/entry/format.h"

static int parse(const char *text, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 0);
	return errno || end == text || *end || *text == '-' ? -EINVAL : 0;
}

struct options {
	uint64_t from, count, shrink_seconds;
	int one;	    /* of the seed @from, and what it does is printed */
	const char *format; /* of all tables; NULL: as the seeds say */
	const char *replay; /* a file with a plan, instead of seeds */
	int order;	    /* under the memory model */
	int commit;	    /* is all that is asked for */
	int sites;	    /* of which these are listed at the end */
};

enum {
	SIM_SEEDS,
	SIM_FROM,
	SIM_SEED,
	SIM_FORMAT,
	SIM_SHRINK,
	SIM_REPLAY,
	SIM_ORDER,
	SIM_COMMIT_OF,
	SIM_SITES,
	SIM_WEAKEN,
	SIM_MUTANT
};

static const struct cli_option sim_options[] = {
    {"seeds", "COUNT", "run COUNT simulations (1000)", SIM_SEEDS},
    {"from", "SEED", "the first seed (1)", SIM_FROM},
    {"seed", "SEED", "run one, and print what it does", SIM_SEED},
    {"format", "NAME", "tables of this format alone: npt, ept, sv39x4 ...", SIM_FORMAT},
    {"shrink", "SECONDS", "look that long for a smaller plan that fails (30)", SIM_SHRINK},
    {"replay", "FILE", "run the plan that was printed of a failure", SIM_REPLAY},
    {"order", NULL, "under C11's memory order: loads may see older stores", SIM_ORDER},
    {"commit", NULL, "say which commit it was built of", SIM_COMMIT_OF},
#ifdef QUIRE_ORDER
    {"sites", NULL, "list the places of code that ask for an order, as order.py takes them",
     SIM_SITES},
    {"weaken", "ADDRESS", "take the order from one of them", SIM_WEAKEN},
#endif
#ifdef QUIRE_MUTANTS
    {"mutant", "NAME", "switch on this bug of src/base/mutant.h", SIM_MUTANT},
#endif
    {0},
};

#ifdef QUIRE_MUTANTS
enum quire_mutant quire_mutant;

static int switch_on(const char *name)
{
	static const struct {
		const char *name;
		enum quire_mutant mutant;
	} mutants[] = {
#define MUTANT_NAME(name, what) {#name, MUTANT_##name},
	    QUIRE_MUTANT_LIST(MUTANT_NAME) QUIRE_AGE_MUTANT_LIST(MUTANT_NAME)
		QUIRE_SIM_MUTANT_LIST(MUTANT_NAME)
#undef MUTANT_NAME
	};

	for (size_t i = 0; i < sizeof(mutants) / sizeof(mutants[0]); i++)
		if (!strcmp(mutants[i].name, name))
			quire_mutant = mutants[i].mutant;
	return quire_mutant ? 0 : -EINVAL;
}
#else
static int switch_on(const char *name)
{
	(void)name;
	return -EINVAL;
}
#endif

#ifdef QUIRE_ORDER
static int weaken(const char *text)
{
	uint64_t offset;

	if (parse(text, &offset))
		return -EINVAL;
	order_weaken(order_code(offset), true);
	return 0;
}
#else
static int weaken(const char *text)
{
	(void)text;
	return -EINVAL;
}

void order_print_sites(void)
{
}
#endif

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
	if (key == SIM_MUTANT)
		return switch_on(value);
	if (key == SIM_REPLAY) {
		options->replay = value;
		return 0;
	}
	if (key == SIM_ORDER) {
		options->order = 1;
		return 0;
	}
	if (key == SIM_COMMIT_OF) {
		options->commit = 1;
		return 0;
	}
	if (key == SIM_SITES) {
		options->sites = 1;
		return 0;
	}
	if (key == SIM_WEAKEN)
		return weaken(value);
	if (key == SIM_SHRINK)
		return parse(value, &options->shrink_seconds);
	options->one |= key == SIM_SEED;
	return parse(value, key == SIM_SEEDS ? &options->count : &options->from);
}

static const struct cli_command sim_command = {
    .name = "quire-sim",
    .about = "Run simulations by their seeds; the first that fails is made small, and told.",
    .options = sim_options,
    .take = take_option,
};

/* Until one fails; @failed is then as it failed. */
static int run_seeds(const struct options *options, struct sim_case *failed)
{
	struct sim_plan *plan = &failed->plan;

	sim_record_to(&failed->recorded);
	for (uint64_t seed = options->from; seed - options->from < options->count; seed++) {
		const char *failure;

		progress_tell(seed - options->from, options->count);
		sim_plan_make(plan, seed);
		/* Shadow pages have a format of their own. */
		if (options->format && plan->mmu == QUIRE_MMU_TDP)
			plan->format = (enum quire_format_id)find_format(options->format);
		if (options->order)
			sim_plan_order(plan);
		plan->trace = options->one;
		if (options->one)
			sim_plan_print(plan);
		failure = sim_run(plan);
		if (!failure)
			continue;
		snprintf(failed->failure, sizeof(failed->failure), "%s", failure);
		return 1;
	}
	sim_destroy();
	if (options->sites)
		order_print_sites();
	return 0;
}

/*
 * In a child: a run that failed, or crashed, leaves anything, and what looks at it goes on with
 * processes that have run nothing.
 */
static int run_apart(const struct options *options, struct sim_case *failed)
{
	int status;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child == 0)
		exit(options->replay ? sim_explain(&failed->plan) : run_seeds(options, failed));
	if (child < 0 || waitpid(child, &status, 0) != child) {
		perror("quire-sim");
		exit(1);
	}
	return sim_case_failed(failed, status);
}

/* The memory model is in a program of its own, beside this one: it makes every access slower. */
static void become_order(char **argv)
{
#ifndef QUIRE_ORDER
	static const char suffix[] = "-order";
	char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - sizeof(suffix));

	if (length < 0)
		length = 0;
	memcpy(path + length, suffix, sizeof(suffix));
	execv(path, argv);
	fprintf(stderr, "quire-sim: --order is run by %s, which clang alone builds: %s\n", path,
		strerror(errno));
	exit(EXIT_USAGE);
#else
	(void)argv;
#endif
}

static int replay(const struct options *options, struct sim_case *failed, char **argv)
{
	if (!sim_plan_read(options->replay, &failed->plan, &failed->planned))
		return EXIT_USAGE;
	if (failed->plan.order)
		become_order(argv);
	if (!run_apart(options, failed)) {
		printf("the plan passed\n");
		return 0;
	}
	if (failed->failure[0])
		printf("# failed: %s\n", failed->failure);
	return 1;
}

static int tell(struct options *options, struct sim_case *failed)
{
	printf("# seed %" PRIu64 " failed: %s\n", failed->plan.seed, failed->failure);
	failed->plan.trace = 0;
	sim_shrink(failed, (uint32_t)options->shrink_seconds);
	options->replay = "";
	failed->failure[0] = '\0';
	if (!run_apart(options, failed) || failed->failure[0]) {
		/* It ended before it could be told, or needs what came before it. */
		sim_plan_print(&failed->plan);
		printf("# not told: %s\n",
		       failed->failure[0] ? failed->failure : "it passes by itself");
	}
	return 1;
}

int main(int argc, char **argv)
{
	struct options options = {.from = 1, .count = 1000, .shrink_seconds = 30};
	struct sim_case *failed = sim_case_new();
	int rest, status;

	status = cli_parse(&sim_command, argc, argv, &options, &rest);
	if (status != CLI_GO_ON)
		return status;
	if (options.order)
		become_order(argv);
	if (options.commit) {
		printf(SIM_COMMIT "\n");
		return 0;
	}
	if (options.one)
		options.count = 1;
	sim_init();
	if (options.replay)
		return replay(&options, failed, argv);
	if (run_apart(&options, failed))
		return tell(&options, failed);
	/* What is printed of one is a plan. */
	if (options.one)
		printf("# the simulation passed\n");
	else
		printf("%" PRIu64 " simulations passed\n", options.count);
	return 0;
}
