/* Known bugs, switched on one at a time: the pairs must catch each. Fast paths, switched off one at
 * a time: the pairs must pass. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/mutant.h"
#include "tests/sim/names.h"
#include "tests/sim/pairs.h"

enum quire_mutant quire_mutant;

/* What takes longer has caught nothing. */
#define SECONDS_MAX 300u /* of processor time */
#define PREEMPTIONS_MAX 2u

static const struct pair *const suites[] = {pairs_fault,  pairs_slots,	pairs_log,    pairs_gmem,
					    pairs_access, pairs_kernel, pairs_quota,  pairs_end,
					    pairs_age,	  pairs_link,	pairs_convert};

static const struct {
	enum quire_mutant mutant;
	bool is_bug;
	const char *name, *what;
} mutants[] = {{MUTANT_NONE, false, "none", "no bug"},
#define BUG(name, what) {MUTANT_##name, true, #name, what},
#define SLOW(name, what) {MUTANT_##name, false, #name, what},
	       QUIRE_MUTANT_LIST(BUG) QUIRE_AGE_MUTANT_LIST(BUG) QUIRE_BREAK_MUTANT_LIST(BUG)
		   QUIRE_SLOW_LIST(SLOW)
#undef SLOW
#undef BUG
};
#define MUTANT_COUNT (sizeof(mutants) / sizeof(mutants[0]))

/*
 * Bugs that only two preemptions show, and a pair that does: it is run first. Without a line here,
 * or with one that no longer holds, it takes the time of all pairs before it.
 */
static const struct {
	enum quire_mutant mutant;
	const char *pair;
} shown_by[] = {
    {MUTANT_line_unlocked, "end of the VM and host invalidation"},
    {MUTANT_section_waits_once, "long section and two waits"},
    {MUTANT_cache_end_first, "activation of a pfn cache and host invalidation"},
    {MUTANT_own_mark_unlocked, "own write and harvest of its word"},
    {MUTANT_attributes_end_first, "fault and conversion"},
    {MUTANT_recover_unchecked, "host invalidation and end of logging"},
    {MUTANT_grace_skipped, "slot deletion and MMIO"},
    {MUTANT_block_unchecked, "huge fault and invalidation of a neighbour"},
};

/* With at most @preemptions: the name goes through the pipe, first, for a broken assertion ends
 * the child. */
static void run_pair(int out, const struct pair *test, uint32_t preemptions)
{
	struct sched_verdict verdict;
	struct pair bounded = *test;

	if (bounded.preemptions > preemptions)
		bounded.preemptions = preemptions;
	if (write(out, test->name, strlen(test->name) + 1) < 0)
		_exit(2);
	if (!pair_explore(&bounded, &verdict))
		_exit(1);
}

/* All pairs, or those of a name; how many they are. */
static unsigned int run_pairs(int out, const char *name, uint32_t preemptions)
{
	unsigned int count = 0;

	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
		for (const struct pair *test = suites[i]; test->name; test++) {
			if (name && strcmp(name, test->name))
				continue;
			run_pair(out, test, preemptions);
			count++;
		}
	}
	return count;
}

/* In a child: the name of the pair that notices goes through the pipe; a crash is noticed too. One
 * preemption is enough for most bugs and costs a hundredth of two. */
static void run_suite(int out, uint32_t preemptions_max)
{
	for (size_t i = 0; i < sizeof(shown_by) / sizeof(shown_by[0]); i++)
		if (shown_by[i].mutant == quire_mutant &&
		    !run_pairs(out, shown_by[i].pair, preemptions_max))
			_exit(2);
	for (uint32_t preemptions = 0; preemptions <= preemptions_max; preemptions++)
		run_pairs(out, NULL, preemptions);
	_exit(0);
}

/* Does the suite fail with @mutant? Prints which pair it was. */
static bool is_caught(size_t mutant)
{
	char names[32768];
	size_t used = 0, last = 0;
	int pipe_ends[2], status;
	ssize_t got;
	pid_t child;

	if (pipe(pipe_ends))
		return false;
	child = fork();
	if (child == 0) {
		close(pipe_ends[0]);
		if (mutants[mutant].is_bug && !freopen("/dev/null", "w", stderr))
			_exit(0);
		quire_mutant = mutants[mutant].mutant;
		setrlimit(RLIMIT_CPU, &(struct rlimit){SECONDS_MAX, SECONDS_MAX + 1});
		pairs_init();
		if (quire_mutant == MUTANT_break_unflushed)
			pair.machine.format = QUIRE_FORMAT_ARM64_4;
		else if (mutants[mutant].is_bug && quire_mutant >= MUTANT_age_blind)
			pair.machine.format = QUIRE_FORMAT_EPT_NO_AD;
		/* Without a bug test_interleave.c goes further. */
		run_suite(pipe_ends[1], mutants[mutant].is_bug ? PREEMPTIONS_MAX : 1);
	}
	close(pipe_ends[1]);
	while ((got = read(pipe_ends[0], names + used, sizeof(names) - used - 1)) > 0)
		used += (size_t)got;
	close(pipe_ends[0]);
	if (child < 0 || waitpid(child, &status, 0) != child || !used)
		return false;
	for (size_t i = 0; i + 1 < used; i++)
		if (!names[i])
			last = i + 1;
	names[used] = '\0';
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		printf("%-26s passed all pairs\n", mutants[mutant].name);
		return false;
	}
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) {
		printf("%-26s had no more time in: %s\n", mutants[mutant].name, names + last);
		return !mutants[mutant].is_bug;
	}
	printf("%-26s %s by: %s\n", mutants[mutant].name, WIFEXITED(status) ? "caught" : "stopped",
	       names + last);
	return true;
}

static const char *name_of(size_t i)
{
	return i < MUTANT_COUNT ? mutants[i].name : NULL;
}

/* All of them, or those that are named. The suite without any bug must pass, and without the lines
 * of a fast path, too. */
int main(int argc, char **argv)
{
	int failed = 0;

	if (!names_are_known(argc, argv, name_of))
		return 2;
	for (size_t mutant = 0; mutant < MUTANT_COUNT; mutant++) {
		bool caught;

		if (mutant && !names_have(argc, argv, mutants[mutant].name))
			continue;
		fflush(stdout);
		caught = is_caught(mutant);
		if (!mutant && caught)
			return 2;
		if (caught == mutants[mutant].is_bug)
			continue;
		printf("%s: %s (%s)\n", caught ? "FAILED" : "SURVIVED", mutants[mutant].name,
		       mutants[mutant].what);
		failed++;
	}
	printf("%zu bugs and fast paths, %d not as they should be\n", MUTANT_COUNT - 1, failed);
	return failed ? 1 : 0;
}
