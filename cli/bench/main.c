/* quire-bench: measures the library, each row against its floor. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench/bench.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "hosts/process/process.h"

static const struct bench_list *const lists[] = {
    &bench_slots, &bench_gmem,	&bench_fault,  &bench_tlb,  &bench_tables, &bench_log,
    &bench_stall, &bench_locks, &bench_nested, &bench_vcpu, &bench_loops,  &bench_userfault,
};
#define LISTS (sizeof(lists) / sizeof(lists[0]))
#define RESULTS_MAX 64u

struct options {
	const char *json;
	int list;
	char **names; /* prefixes; none: all */
	int name_count;
};

enum { BENCH_JSON, BENCH_LIST };

static const struct cli_option bench_options[] = {
    {"json", "FILE", "write the results, in the shape of Google Benchmark", BENCH_JSON},
    {"list", NULL, "print the rows and their floors, and measure nothing", BENCH_LIST},
    {0},
};

static int take_option(void *ctx, int key, const char *value)
{
	struct options *options = ctx;

	if (key == BENCH_JSON)
		options->json = value;
	else
		options->list = 1;
	return 0;
}

static const struct cli_command bench_command = {
    .name = "quire-bench",
    .operand = "[NAME...]",
    .about = "Measure the library. NAME is the beginning of a row's name; without one, all rows.\n"
	     "Each row is CPU time of one operation, and its multiple of a floor that is measured\n"
	     "in the same run: the least that any implementation must do.",
    .options = bench_options,
    .take = take_option,
};

static int is_wanted(const struct options *options, const struct bench_row *row)
{
	for (int i = 0; i < options->name_count; i++)
		if (!strncmp(row->name, options->names[i], strlen(options->names[i])))
			return 1;
	return !options->name_count;
}

static size_t count_wanted(const struct options *options)
{
	size_t count = 0;

	for (size_t list = 0; list < LISTS; list++)
		for (size_t i = 0; i < lists[list]->count; i++)
			count += is_wanted(options, &lists[list]->rows[i]);
	return count;
}

static size_t run_all(const struct options *options, struct bench_result *results)
{
	size_t count = 0;

	for (size_t list = 0; list < LISTS; list++) {
		for (size_t i = 0; i < lists[list]->count && count < RESULTS_MAX; i++) {
			const struct bench_row *row = &lists[list]->rows[i];

			if (!is_wanted(options, row))
				continue;
			if (options->list) {
				printf("%-20s %s\n", row->name, row->floor_text);
				results[count++] = (struct bench_result){.row = row};
				continue;
			}
			progress_tell(count, count_wanted(options));
			bench_run_row(row, &results[count]);
			bench_print_result(&results[count++]);
		}
	}
	return count;
}

int main(int argc, char **argv)
{
	static struct bench_result results[RESULTS_MAX];
	struct options options = {0};
	int rest, status;
	size_t count;

	status = cli_parse(&bench_command, argc, argv, &options, &rest);
	if (status != CLI_GO_ON)
		return status;
	options.names = argv + rest;
	options.name_count = argc - rest;
	quire_platform_install(&process_platform);
	if (process_signals_install()) {
		fputs("quire-bench: cannot install signal handlers\n", stderr);
		return 1;
	}
	if (!options.list)
		bench_print_head();
	count = run_all(&options, results);
	if (!count) {
		fputs("quire-bench: no row of that name; --list prints them\n", stderr);
		return 2;
	}
	if (options.json && !options.list && bench_write_json(options.json, results, count)) {
		fprintf(stderr, "quire-bench: cannot write %s\n", options.json);
		return 1;
	}
	for (size_t i = 0; i < count; i++)
		if (results[i].error && results[i].error != -ENOMEM)
			return 1;
	return 0;
}
