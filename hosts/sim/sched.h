/* A deterministic scheduler: virtual threads that change places only at scheduling points. */
#ifndef QUIRE_HOSTS_SIM_SCHED_H
#define QUIRE_HOSTS_SIM_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include <quire/platform.h>

/*
 * One real thread runs all virtual ones. Every atomic operation of the library (built with
 * QUIRE_SCHED) is a point where another virtual thread may go on; waiting, waking and spinning
 * go through the platform, so a lock that is held makes its waiter stand still instead of the
 * machine. The same plan gives the same run.
 *
 * A run without preemptions lets thread 0 run until it blocks or ends, then thread 1, and so on. A
 * preemption says: at step N, thread T goes on instead. Trying all runs with up to K preemptions
 * finds nearly all races of short paths, in polynomial time.
 */
#define SCHED_THREADS_MAX 8u
#define SCHED_PREEMPTIONS_MAX 8u

struct sched_preemption {
	uint32_t step;
	uint32_t thread;
};

struct sched_plan {
	uint32_t count;
	struct sched_preemption at[SCHED_PREEMPTIONS_MAX];
};

enum sched_result {
	SCHED_DONE,	/* every thread ended */
	SCHED_DEADLOCK, /* nobody could go on */
	SCHED_ENDLESS,	/* the limit of steps was reached */
};

struct sched_run {
	uint32_t threads;
	void (*body)(uint32_t thread, void *ctx);
	void *ctx;
	struct sched_plan plan;
	/* Results. */
	enum sched_result result;
	uint32_t steps;
};

/* The platform under the scheduler; outside sched_execute() it runs the caller as one thread. */
extern const struct quire_platform sched_platform;

/* Execute one run. */
void sched_execute(struct sched_run *run);

/* A test of one run: set the world up, let the threads go, look at the end state. */
struct sched_test {
	uint32_t threads;
	uint32_t preemptions_max;
	void (*setup)(void *ctx);
	void (*body)(uint32_t thread, void *ctx);
	/* False: the end state is wrong. */
	bool (*check)(void *ctx);
	void *ctx;
};

/* What exploring found. */
struct sched_verdict {
	uint64_t runs;
	bool failed;
	enum sched_result result;
	struct sched_plan plan; /* of the failed run: sched_execute() replays it */
};

/* Try every run with up to preemptions_max preemptions; stops at the first that fails. */
struct sched_verdict sched_explore(const struct sched_test *test);

#endif
