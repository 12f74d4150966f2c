/* Known bugs, switched on one at a time: the simulations of quire-sim must catch each. Fast paths,
 * switched off one at a time: they must pass. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/sim/sim.h"
#include "src/base/mutant.h"
#include "tests/sim/names.h"

enum quire_mutant quire_mutant;

/* A bug that has not been met by then is missed. The hardest takes a fifth of them. */
#define SEEDS_MAX 20000u
#define SECONDS_MAX 120u
/* Without a bug: main.c goes further. */
#define SEEDS_WITHOUT 300u

static const struct {
	enum quire_mutant mutant;
	bool is_bug;
	const char *name;
} mutants[] = {
    {MUTANT_NONE, false, "none"},
#define BUG(name, what) {MUTANT_##name, true, #name},
#define SLOW(name, what) {MUTANT_##name, false, #name},
    QUIRE_SIM_MUTANT_LIST(BUG) QUIRE_SLOW_LIST(SLOW)
#undef SLOW
#undef BUG
    /* Of those that the pairs catch, too. */
    {MUTANT_pins_unseen, true, "pins_unseen"},
    {MUTANT_convert_unhidden, true, "convert_unhidden"},
    {MUTANT_reshape_narrow, true, "reshape_narrow"},
};
#define MUTANT_COUNT (sizeof(mutants) / sizeof(mutants[0]))

/* Tells through the pipe which seed fails, and how; a crash says nothing. */
static void run_seeds(int out, uint64_t seeds)
{
	static struct sim_plan plan;
	char text[256];

	sim_init();
	for (uint64_t seed = 1; seed <= seeds; seed++) {
		const char *failure;

		sim_plan_make(&plan, seed);
		failure = sim_run(&plan);
		if (!failure)
			continue;
		snprintf(text, sizeof(text), "by seed %" PRIu64 ": %s", seed, failure);
		if (write(out, text, strlen(text)) < 0)
			_exit(2);
		_exit(1);
	}
	_exit(0);
}

/* Does a simulation fail? Prints which. In a child, for a broken assertion may end it. */
static int is_caught(size_t i)
{
	int ends[2], status;
	char text[256] = "";
	pid_t child;

	if (pipe(ends))
		return 0;
	child = fork();
	if (child == 0) {
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
			_exit(0);
		quire_mutant = mutants[i].mutant;
		alarm(SECONDS_MAX);
		run_seeds(ends[1], mutants[i].is_bug ? SEEDS_MAX : SEEDS_WITHOUT);
	}
	close(ends[1]);
	if (read(ends[0], text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(ends[0]);
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	/* What had no more time has noticed nothing, and has not passed. */
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		return !mutants[i].is_bug;
	printf("%s: caught %s\n", mutants[i].name, text[0] ? text : "by a crash");
	return 1;
}

static const char *name_of(size_t i)
{
	return i < MUTANT_COUNT ? mutants[i].name : NULL;
}

/* All of them, or those that are named. Without any bug the simulations must pass. */
int main(int argc, char **argv)
{
	int failed = 0;

	if (!names_are_known(argc, argv, name_of))
		return 2;
	setvbuf(stdout, NULL, _IONBF, 0);
	for (size_t i = 0; i < MUTANT_COUNT; i++) {
		if (!names_have(argc, argv, mutants[i].name) || is_caught(i) == mutants[i].is_bug)
			continue;
		printf("%s: %s\n", mutants[i].name,
		       mutants[i].is_bug ? "survived" : "the simulations fail");
		failed++;
	}
	return failed != 0;
}
