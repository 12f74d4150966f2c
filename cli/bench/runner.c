/* Rounds, medians and ratios. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/bench/bench.h"

#define ROUNDS_USUAL 9u
#define ROUNDS_MAX 32u
#define PROGRESS_NS 2e9 /* of CPU time */

double bench_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* How long the calling thread has waited for a processor; 0 where the kernel does not count it. */
static double delay_ns(void)
{
	unsigned long long ran, waited = 0;
	FILE *file = fopen("/proc/thread-self/schedstat", "re");

	if (!file)
		return 0;
	if (fscanf(file, "%llu %llu", &ran, &waited) != 2)
		waited = 0;
	fclose(file);
	return (double)waited;
}

double bench_awake_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec - delay_ns();
}

struct worker {
	pthread_t thread;
	pthread_barrier_t *start;
	double (*work)(void *ctx, unsigned int index);
	void *ctx;
	unsigned int index;
	double took;
};

static void *worker_main(void *opaque)
{
	struct worker *worker = opaque;

	pthread_barrier_wait(worker->start);
	worker->took = worker->work(worker->ctx, worker->index);
	return NULL;
}

double bench_parallel(unsigned int count, double (*work)(void *ctx, unsigned int index), void *ctx)
{
	struct worker workers[BENCH_THREADS_MAX];
	pthread_barrier_t start;
	double sum = 0;

	pthread_barrier_init(&start, NULL, count);
	for (unsigned int i = 0; i < count; i++) {
		workers[i] = (struct worker){
		    .start = &start, .work = work, .ctx = ctx, .index = i, .took = -1};
		/* Without a thread the others would wait at the barrier for ever. */
		if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]))
			abort();
	}
	for (unsigned int i = 0; i < count; i++) {
		pthread_join(workers[i].thread, NULL);
		sum = sum < 0 || workers[i].took < 0 ? -1 : sum + workers[i].took;
	}
	pthread_barrier_destroy(&start);
	return sum;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts @values. */
static double median(double *values, unsigned int count)
{
	qsort(values, count, sizeof(*values), compare);
	return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static uint64_t available_bytes(void)
{
	char line[128];
	uint64_t kib = 0;
	FILE *file = fopen("/proc/meminfo", "r");

	if (!file)
		return UINT64_MAX;
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, "MemAvailable:", 13))
			kib = strtoull(line + 13, NULL, 10);
	fclose(file);
	return kib << 10;
}

static void fail(struct bench_result *result, int error, const char *text)
{
	result->error = error;
	result->text = text;
}

/* A row that takes long says how far it is. */
static void tell_progress(const struct bench_row *row, unsigned int round, unsigned int rounds)
{
	static double told;
	double now = bench_now();

	if (round && now - told < PROGRESS_NS)
		return;
	if (round)
		fprintf(stderr, "   %s, %u of %u\n", row->name, round, rounds);
	told = now;
}

static void run_rounds(const struct bench_row *row, void *state, struct bench_result *result)
{
	double took[ROUNDS_MAX], floor[ROUNDS_MAX], ratio[ROUNDS_MAX];
	unsigned int rounds = row->rounds ? row->rounds : ROUNDS_USUAL;
	double operations = (double)row->operations;

	/* One round for nothing: it makes tables and caches resident. */
	if (rounds > 1 && (row->operation(state) < 0 || row->floor(state) < 0)) {
		fail(result, -EIO, "the operation went wrong");
		return;
	}
	for (unsigned int i = 0; i < rounds; i++) {
		tell_progress(row, i, rounds);
		took[i] = row->operation(state) / operations;
		floor[i] = row->floor(state) / operations;
		if (took[i] < 0 || floor[i] < 0) {
			fail(result, -EIO, "the operation went wrong");
			return;
		}
		ratio[i] = took[i] / floor[i];
	}
	result->rounds = rounds;
	result->median = median(took, rounds);
	result->lowest = took[0];
	result->highest = took[rounds - 1];
	result->floor = median(floor, rounds);
	result->ratio = median(ratio, rounds);
}

void bench_run_row(const struct bench_row *row, struct bench_result *result)
{
	void *state = NULL;
	int error;

	*result = (struct bench_result){.row = row};
	if (available_bytes() < row->memory_bytes + (UINT64_C(512) << 20)) {
		fail(result, -ENOMEM, "not enough memory");
		return;
	}
	error = row->setup(row, &state);
	if (error) {
		fail(result, error, strerror(-error));
		return;
	}
	run_rounds(row, state, result);
	row->teardown(state);
}
