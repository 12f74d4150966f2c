/* From a plan that fails to a small one that fails in the same way. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/sim/sim.h"

/* Interleavings that a plan with fewer operations gets to fail in: at first, and when few are left.
 */
#define TRIES 300u
#define TRIES_AT_LAST 1000u
/* Of a preemption at each point, one in so many, and in up to 32 times as many. */
#define ODDS 4u
#define ODDS_OF_FEW 32u
#define TRY_SECONDS 20u

struct sim_case *sim_case_new(void)
{
	void *mem = mmap(NULL, sizeof(struct sim_case), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		abort();
	return mem;
}

bool sim_case_failed(struct sim_case *failed, int status)
{
	if (WIFSIGNALED(status))
		snprintf(failed->failure, sizeof(failed->failure), "signal %d", WTERMSIG(status));
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

/* The best so far, and one to try. Children write to the latter. */
struct shrink {
	struct sim_case *best, *tried;
	struct timespec begun, end;
};

/* What follows may go on until so long after the begin. */
static void allow_until(struct shrink *shrink, uint32_t seconds)
{
	shrink->end = shrink->begun;
	shrink->end.tv_sec += seconds;
}

static bool is_late(const struct shrink *shrink)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > shrink->end.tv_sec ||
	       (now.tv_sec == shrink->end.tv_sec && now.tv_nsec >= shrink->end.tv_nsec);
}

static void copy_case(struct sim_case *to, const struct sim_case *from)
{
	memcpy(to, from, sizeof(*to));
	if (from->plan.preemptions)
		to->plan.preemptions = &to->planned;
}

/* In a child. More and fewer preemptions than the plan's seed said: with less to do, others fail.
 */
static void run_tries(struct sim_case *tried, uint32_t tries, uint32_t odds)
{
	sim_record_to(&tried->recorded);
	for (uint32_t i = 0; i < tries; i++) {
		const char *failure;

		if (i) {
			tried->plan.preemption_seed++;
			tried->plan.preemption_odds = odds << i % 6;
		}
		failure = sim_run(&tried->plan);
		if (!failure)
			continue;
		snprintf(tried->failure, sizeof(tried->failure), "%s", failure);
		_exit(1);
	}
	_exit(0);
}

/* Does what is to be tried fail as the best does? */
static bool fails_alike(struct shrink *shrink, uint32_t tries, uint32_t odds)
{
	struct sim_case *tried = shrink->tried;
	int status;
	pid_t child;

	tried->failure[0] = '\0';
	fflush(NULL);
	child = fork();
	if (child == 0) {
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
			_exit(0);
		alarm(TRY_SECONDS);
		run_tries(tried, tries, odds);
	}
	return child >= 0 && waitpid(child, &status, 0) == child &&
	       sim_case_failed(tried, status) && !strcmp(tried->failure, shrink->best->failure);
}

/* Then it is the best. */
static bool fails(struct shrink *shrink, uint32_t tries)
{
	if (!fails_alike(shrink, tries, ODDS))
		return false;
	copy_case(shrink->best, shrink->tried);
	return true;
}

/* Leave out @count operations from the one numbered @first on, threads after each other. */
static void leave_out(struct sim_plan *plan, uint32_t first, uint32_t count)
{
	for (uint32_t thread = 0, number = 0; thread < plan->threads; thread++) {
		uint32_t kept = 0;

		for (uint32_t i = 0; i < plan->op_count[thread]; i++, number++)
			if (number - first >= count)
				plan->ops[thread][kept++] = plan->ops[thread][i];
		plan->op_count[thread] = kept;
	}
}

static uint32_t count_ops(const struct sim_plan *plan)
{
	uint32_t count = 0;

	for (uint32_t thread = 0; thread < plan->threads; thread++)
		count += plan->op_count[thread];
	return count;
}

/* Half of @chunk first, then a quarter, and so on; single ones until none can go. */
static void shrink_ops(struct shrink *shrink, uint32_t chunk, uint32_t tries)
{
	bool changed = true;

	while (chunk > 1 || changed) {
		chunk = chunk > 1 ? chunk / 2 : 1;
		changed = false;
		for (uint32_t at = 0; at < count_ops(&shrink->best->plan);) {
			if (is_late(shrink))
				return;
			copy_case(shrink->tried, shrink->best);
			leave_out(&shrink->tried->plan, at, chunk);
			if (fails(shrink, tries))
				changed = true;
			else
				at += chunk;
		}
	}
}

/*
 * Look for a run that fails with fewer preemptions than the best had. To leave out single ones is
 * not enough: those that come after one are at other steps without it.
 */
static void find_calmer(struct shrink *shrink)
{
	struct sim_case *tried = shrink->tried;
	uint32_t left = TRIES_AT_LAST;

	copy_case(tried, shrink->best);
	while (left && shrink->best->recorded.count > 1 && !is_late(shrink)) {
		uint64_t last = tried->plan.preemption_seed++;
		bool failed;

		tried->plan.preemption_odds = ODDS_OF_FEW;
		failed = fails_alike(shrink, left, ODDS_OF_FEW);
		/* A child ends with the first run that fails: the next goes on behind it. */
		last = tried->plan.preemption_seed - last;
		left -= last < left ? (uint32_t)last : left;
		if (failed && tried->recorded.count < shrink->best->recorded.count) {
			copy_case(shrink->best, tried);
			left = TRIES_AT_LAST;
		}
	}
}

static void shrink_preemptions(struct shrink *shrink)
{
	uint32_t chunk = shrink->best->planned.count;
	bool changed = true;

	while (chunk > 1 || changed) {
		chunk = chunk > 1 ? chunk / 2 : 1;
		changed = false;
		for (uint32_t at = 0; at < shrink->best->planned.count;) {
			struct sim_preemptions *all = &shrink->tried->planned;
			uint32_t end;

			if (is_late(shrink))
				return;
			copy_case(shrink->tried, shrink->best);
			end = at + chunk < all->count ? at + chunk : all->count;
			memmove(&all->at[at], &all->at[end],
				(all->count - end) * sizeof(all->at[0]));
			all->count -= end - at;
			if (fails(shrink, 1))
				changed = true;
			else
				at += chunk;
		}
	}
}

/* From here on the preemptions are those of the last run that failed. */
static bool plan_preemptions(struct shrink *shrink)
{
	copy_case(shrink->tried, shrink->best);
	memcpy(&shrink->tried->planned, &shrink->best->recorded, sizeof(shrink->tried->planned));
	shrink->tried->plan.preemptions = &shrink->tried->planned;
	return fails(shrink, 1);
}

void sim_shrink(struct sim_case *failed, uint32_t seconds)
{
	struct shrink shrink = {.best = failed, .tried = sim_case_new()};

	clock_gettime(CLOCK_MONOTONIC, &shrink.begun);
	/* The end of what has none is awaited for each try. */
	allow_until(&shrink, seconds / 2);
	shrink_ops(&shrink, count_ops(&failed->plan), TRIES);
	shrink_ops(&shrink, 1, TRIES_AT_LAST);
	allow_until(&shrink, seconds - seconds / 4);
	find_calmer(&shrink);
	allow_until(&shrink, seconds);
	if (plan_preemptions(&shrink))
		shrink_preemptions(&shrink);
	munmap(shrink.tried, sizeof(*shrink.tried));
}
