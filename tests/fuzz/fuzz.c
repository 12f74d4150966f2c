/* What the fuzzers share: options, reproducible randomness, and a parent that watches the child. */
#include "fuzz.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/progress.h"

#define NS_PER_SECOND 1000000000ull
#define PATIENCE_NS (2 * NS_PER_SECOND)

struct fuzz_progress *fuzz_progress;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

void random_seed(struct fuzz_random *random, uint64_t seed)
{
	random->state = (seed + 1) * 0x9e3779b97f4a7c15ull;
	for (int i = 0; i < 8; i++)
		random_word(random);
}

uint64_t random_word(struct fuzz_random *random)
{
	uint64_t x = random->state ? random->state : 1;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random->state = x;
	return x * 0x2545f4914f6cdd1dull;
}

uint64_t random_below(struct fuzz_random *random, uint64_t end)
{
	return (random_word(random) >> 11) % end;
}

int random_once_in(struct fuzz_random *random, uint64_t times)
{
	return random_below(random, times) == 0;
}

uint64_t random_edge(struct fuzz_random *random)
{
	static const uint64_t edges[] = {
	    0,		1,	    7,		0xff,	     0xfff,
	    0x1000,	0xffff,	    0x7fffffff, 0x80000000,  0xfffff000,
	    0xffffffff, 1ull << 32, 1ull << 47, -1ull << 47, (1ull << 47) - 1,
	    1ull << 52, 1ull << 63, ~0ull >> 1, ~0ull,	     ~0ull - 1,
	    ~0xfffull,
	};

	switch (random_below(random, 5)) {
	case 0:
		return edges[random_below(random, ARRAY_SIZE(edges))];
	case 1:
		return random_below(random, 64);
	case 2:
		return 1ull << random_below(random, 64);
	case 3:
		return edges[random_below(random, ARRAY_SIZE(edges))] + random_below(random, 17) -
		       8;
	default:
		return random_word(random) >> random_below(random, 64);
	}
}

void random_bytes(struct fuzz_random *random, void *bytes, size_t size)
{
	uint8_t *at = bytes;

	for (size_t i = 0; i < size; i++)
		at[i] = (uint8_t)(random_word(random) >> 32);
}

void call_begin(void)
{
	fuzz_progress->call_since_ns = now_ns();
}

void call_end(void)
{
	fuzz_progress->call_since_ns = 0;
}

void fuzz_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	_exit(1);
}

static void child_main(const uint64_t seconds, void (*run_seed)(uint64_t seed))
{
	uint64_t end_ns = now_ns() + seconds * NS_PER_SECOND;

	do {
		run_seed(fuzz_progress->seed);
		fuzz_progress->seed++;
		fuzz_progress->seeds_done++;
	} while (now_ns() < end_ns);
	_exit(0);
}

/* 0 when the child ended well, else what went wrong is printed. */
static int watch(const char *name, pid_t child, uint64_t seconds)
{
	uint64_t begun_ns = now_ns();

	for (;;) {
		uint64_t since_ns = fuzz_progress->call_since_ns;
		int status, hung = since_ns && now_ns() > since_ns + PATIENCE_NS;
		pid_t ended;

		/* A debugger may look at the child before it is killed. */
		if (hung && getenv("FUZZ_KEEP"))
			pause();
		if (hung)
			kill(child, SIGKILL);
		ended = waitpid(child, &status, hung ? 0 : WNOHANG);
		if (ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0)
			return 0;
		if (ended == child) {
			fprintf(stderr, "%s: --seed %llu (step %llu): %s %d\n", name,
				(unsigned long long)fuzz_progress->seed,
				(unsigned long long)fuzz_progress->step,
				hung		      ? "did not return; killed by signal"
				: WIFSIGNALED(status) ? "died of signal"
						      : "failed with status",
				WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
			return 1;
		}
		progress_tell((now_ns() - begun_ns) / NS_PER_SECOND, seconds);
		usleep(10000);
	}
}

int fuzz_main(int argc, char **argv, void (*run_seed)(uint64_t seed))
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
	fuzz_progress = mmap(NULL, sizeof(*fuzz_progress), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fuzz_progress == MAP_FAILED)
		return 2;
	fuzz_progress->seed = seed;
	child = fork();
	if (child < 0)
		return 2;
	if (child == 0)
		child_main(seconds, run_seed);
	if (watch(argv[0], child, seconds))
		return 1;
	printf("%llu seeds from %llu on\n", (unsigned long long)fuzz_progress->seeds_done,
	       (unsigned long long)seed);
	return 0;
}
