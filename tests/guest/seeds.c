/* Runs of seed after seed for some seconds, in a child that a parent watches. */
#include "seeds.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/progress.h"

#define NS_PER_SECOND 1000000000ull
#define PATIENCE_NS (60 * NS_PER_SECOND)

/* What the child tells the parent, in memory that both share. */
static struct progress {
	/* The seed being run, and when it began. */
	volatile uint64_t seed, since_ns;
	volatile uint64_t seeds_done;
} * progress;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static void child_main(const uint64_t seconds, void (*run_seed)(uint64_t seed))
{
	uint64_t end_ns = now_ns() + seconds * NS_PER_SECOND;

	do {
		progress->since_ns = now_ns();
		run_seed(progress->seed);
		progress->seed++;
		progress->seeds_done++;
	} while (now_ns() < end_ns);
	_exit(0);
}

/* 0 when the child ended well, else what went wrong is printed. */
static int watch(const char *name, pid_t child, uint64_t seconds)
{
	uint64_t begun_ns = now_ns();

	for (;;) {
		int status, hung = now_ns() > progress->since_ns + PATIENCE_NS;
		pid_t ended;

		if (hung)
			kill(child, SIGKILL);
		ended = waitpid(child, &status, hung ? 0 : WNOHANG);
		if (ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0)
			return 0;
		if (ended == child) {
			fprintf(stderr, "%s: --seed %llu: %s %d\n", name,
				(unsigned long long)progress->seed,
				hung		      ? "did not end; killed by signal"
				: WIFSIGNALED(status) ? "died of signal"
						      : "failed with status",
				WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
			return 1;
		}
		progress_tell((now_ns() - begun_ns) / NS_PER_SECOND, seconds);
		usleep(10000);
	}
}

int seeds_main(int argc, char **argv, void (*run_seed)(uint64_t seed))
{
	uint64_t seconds = 5, seed = (uint64_t)time(NULL) * 1000;
	pid_t child;

	for (int i = 1; i < argc; i += 2) {
		if (i + 1 < argc && !strcmp(argv[i], "--seconds")) {
			seconds = strtoull(argv[i + 1], NULL, 0);
		} else if (i + 1 < argc && !strcmp(argv[i], "--seed")) {
			seed = strtoull(argv[i + 1], NULL, 0);
		} else {
			fprintf(stderr, "usage: %s [--seconds N] [--seed S]\n", argv[0]);
			return 2;
		}
	}
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (progress == MAP_FAILED)
		return 2;
	progress->seed = seed;
	progress->since_ns = now_ns();
	child = fork();
	if (child < 0)
		return 2;
	if (child == 0)
		child_main(seconds, run_seed);
	if (watch(argv[0], child, seconds))
		return 1;
	printf("%llu seeds from %llu on\n", (unsigned long long)progress->seeds_done,
	       (unsigned long long)seed);
	return 0;
}
