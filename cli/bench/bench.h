/* The benchmark runner: rows, each measured against its floor in the same run. */
#ifndef QUIRE_CLI_BENCH_BENCH_H
#define QUIRE_CLI_BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

/*
 * A round measures the operation once and its floor once, one right after the other, so that a
 * machine that is slower for a while is slower for both. What a function needs beforehand it
 * prepares itself, outside of the time it returns.
 */
struct bench_row {
	const char *name;
	const char *floor_text; /* what the floor does, for --list and the JSON */
	/* 0, or -errno: the row is skipped. Leaves *state for the others. */
	int (*setup)(const struct bench_row *row, void **state);
	void (*teardown)(void *state);
	/* CPU time of all operations of a round, in ns (or bytes); negative: it went wrong. */
	double (*operation)(void *state);
	double (*floor)(void *state);
	double bound;		  /* highest ratio; 0: reported only */
	uint64_t operations;	  /* done by a round */
	uint64_t param;		  /* for the functions */
	uint64_t memory_bytes;	  /* that must be available */
	unsigned int rounds;	  /* 0: the usual number */
	unsigned int is_in_bytes; /* the figures are bytes, not ns */
};

struct bench_result {
	const struct bench_row *row;
	double median, lowest, highest; /* of one operation */
	double floor;			/* median, of one operation */
	double ratio;			/* median of the rounds' ratios */
	unsigned int rounds;
	int error;	  /* -errno: skipped or failed */
	const char *text; /* why */
};

struct bench_list {
	const struct bench_row *rows;
	size_t count;
};

extern const struct bench_list bench_slots, bench_gmem, bench_fault, bench_tables, bench_log,
    bench_locks, bench_stall, bench_tlb, bench_nested, bench_vcpu, bench_loops, bench_userfault;

void bench_run_row(const struct bench_row *row, struct bench_result *result);

void bench_print_head(void);
void bench_print_result(const struct bench_result *result);
/* 0 or -errno. */
int bench_write_json(const char *path, const struct bench_result *results, size_t count);

/* CPU time of the calling thread so far, in ns. */
double bench_now(void);
/*
 * The time on the clock, in ns, less what the calling thread has waited for a processor: what it
 * computed and what it waited for others, whatever else the machine does.
 */
double bench_awake_now(void);

/*
 * Run @work in @count threads at once, each with its index; the sum of what they return, which is
 * the CPU time each measured, or negative when one failed.
 */
#define BENCH_THREADS_MAX 4u
double bench_parallel(unsigned int count, double (*work)(void *ctx, unsigned int index), void *ctx);

/* The value is used, as far as the compiler knows. */
#define bench_keep(value) __asm__ volatile("" : "+r"(value)::"memory")

#endif
