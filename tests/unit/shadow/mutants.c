/* Known bugs of the shadow MMU, switched on one at a time: its tests must catch each. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/mutant.h"
#include "tests/sim/names.h"
#include "tests/unit/shadow/groups.h"
#include "tests/unit/shadow/race.h"

enum quire_mutant quire_mutant;

/*
 * Preemptions tried, and seconds until a run counts as hung, which is caught too: many times what
 * it takes without a bug. One preemption is enough for most bugs and costs a twentieth of two.
 */
static const struct round {
	uint32_t preemptions;
	unsigned int seconds_max;
} rounds[] = {{1, 30}, {2, 300}};
#define ROUND_COUNT (sizeof(rounds) / sizeof(rounds[0]))

static const struct {
	enum quire_mutant mutant;
	const char *name, *what;
} mutants[] = {{MUTANT_NONE, "none", "no bug"},
#define MUTANT_TEXT(name, what) {MUTANT_##name, #name, what},
	       QUIRE_SHADOW_MUTANT_LIST(MUTANT_TEXT)
#undef MUTANT_TEXT
};
#define MUTANT_COUNT (sizeof(mutants) / sizeof(mutants[0]))

static int run_tests(void)
{
	return unsync_tests() || age_tests() || race_tests() || split_tests() ||
	       unsync_race_tests() || neighbour_race_tests();
}

/* Do the tests fail with it? In a child, for a broken assertion may end it. */
static int is_caught_in(size_t i, const struct round *round)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (i && (!freopen("/dev/null", "w", stderr) || !freopen("/dev/null", "w", stdout)))
			_exit(0);
		quire_mutant = mutants[i].mutant;
		race_preemptions = round->preemptions;
		alarm(i ? round->seconds_max : 0);
		_exit(run_tests() != 0);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		return 0;
	/* What had no more time has noticed nothing. */
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		return 0;
	return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/* Without a bug, what test_shadow.c does with two preemptions need not be done again. */
static int is_caught(size_t i)
{
	for (size_t round = 0; round < (i ? ROUND_COUNT : 1); round++)
		if (is_caught_in(i, &rounds[round]))
			return 1;
	return 0;
}

static const char *name_of(size_t i)
{
	return i < MUTANT_COUNT ? mutants[i].name : NULL;
}

/* All of them, or those that are named. Without any bug the tests must pass. */
int main(int argc, char **argv)
{
	int survived = 0;

	if (!names_are_known(argc, argv, name_of))
		return 2;
	for (size_t i = 0; i < MUTANT_COUNT; i++) {
		int caught;

		if (i && !names_have(argc, argv, mutants[i].name))
			continue;
		caught = is_caught(i);
		if (!i && caught)
			return 2;
		printf("%s: %s\n", mutants[i].name, caught ? "caught" : "passes");
		fflush(stdout);
		if (i && !caught) {
			printf("SURVIVED: %s (%s)\n", mutants[i].name, mutants[i].what);
			survived++;
		}
	}
	return survived ? 1 : 0;
}
