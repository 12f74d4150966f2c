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
 * The library may also ask for a choice within an operation: with the memory model of
 * hosts/sim/order.h, which of several stores a load sees. That is a step of its own, and choice 0
 * is what happens where the plan says nothing.
 *
 * A run without preemptions lets thread 0 run until it blocks or ends, then thread 1, and so on. A
 * preemption says: at step N, thread T goes on instead. Trying all runs with up to K preemptions
 * finds nearly all races of short paths, in polynomial time.
 */
#define SCHED_THREADS_MAX 8u
#define SCHED_PREEMPTIONS_MAX 8u
#define SCHED_STEPS_MAX 300000u

struct sched_preemption {
	uint32_t step;
	uint32_t
	    thread; /* that goes on instead; or the number of the choice, at a step that is one */
};

struct sched_plan {
	uint32_t count;
	struct sched_preemption at[SCHED_PREEMPTIONS_MAX];
};

enum sched_result {
	SCHED_DONE,	/* every thread ended */
	SCHED_DEADLOCK, /* no thread could go on */
	SCHED_ENDLESS,	/* the limit of steps was reached */
	SCHED_BROKEN,	/* an assertion of the library broke: the run ended there */
};

struct sched_run {
	uint32_t threads;
	void (*body)(uint32_t thread, void *ctx);
	void *ctx;
	struct sched_plan plan;
	/* Results. */
	enum sched_result result;
	uint32_t steps;
	/* When set, SCHED_STEPS_MAX bytes: at step N, bit T of byte N - 1 says that a preemption to
	 * thread T, or choice T, would have changed something. */
	uint8_t *choices;
	/* Instead of the plan, when set: nonzero preempts here, to thread *@thread, or makes that
	 * choice. */
	int (*preempt)(void *ctx, uint32_t step, uint32_t *thread);
	/* With preempt(): the same for sched_choose(), of whose @choices *@choice becomes one. */
	int (*choose)(void *ctx, uint32_t step, uint8_t choices, uint32_t *choice);
};

/* The platform under the scheduler; outside sched_execute() it runs the caller as one thread. */
extern const struct quire_platform sched_platform;

/* Execute one run. */
void sched_execute(struct sched_run *run);

/* What keeps a book of a run's accesses: told when a run begins, when it is over, and of memory
 * that is given out, possibly again. */
struct sched_observer {
	void (*start)(void);
	void (*end)(void);
	void (*fresh)(const void *start, uint64_t size_bytes);
};
void sched_observe(const struct sched_observer *observer);
/* The host's: this memory is given out. */
void sched_fresh_memory(const void *start, uint64_t size_bytes);
/* One of the choices 0 and those whose bits are set, as the plan says. Without a bit it is no step.
 */
uint32_t sched_choose(uint8_t choices);

/* When set: told of each atomic operation of the library before it is done, of the word @where. */
void sched_on_point(void (*told)(const char *what, const void *where));
/* When set: told that the running thread has done the operation it told of last, before it waits,
 * or gives memory back. At its next point it has, too. */
void sched_on_done(void (*told)(void));
/* The host's: memory is about to be given back. */
void sched_operation_done(void);

/* A point of choice of the caller's own, beside the library's atomic operations. */
void sched_yield_point(void);
/*
 * What a broken assertion of the library does: NULL aborts, which is how it starts. Within a run
 * @report is called once: the run ends there, for what comes after it would tell of nothing new.
 */
void sched_on_report(void (*report)(const char *text));
/* The virtual thread that runs, SCHED_THREADS_MAX outside a run. The memory model asks at each
 * access to memory: so it is a word, not a call. Only the scheduler writes it. */
extern uint32_t sched_running_thread;
static inline uint32_t sched_current(void)
{
	return sched_running_thread;
}

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
	uint64_t runs, steps;
	bool failed;
	enum sched_result result;
	struct sched_plan plan; /* of the failed run: sched_execute() replays it */
};

/*
 * Try every run with up to preemptions_max preemptions; stops at the first that fails. The
 * environment's QUIRE_PREEMPTIONS is a bound of all such tests: where each step is counted
 * (tools/coverage.py), a hundredth of the runs takes most branches.
 */
struct sched_verdict sched_explore(const struct sched_test *test);

#endif
