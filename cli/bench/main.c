/* quire-bench: measures the library, each row against its floor. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/bench/bench.h"
#include "hosts/process/process.h"

static const struct bench_list *const lists[] = {
    &bench_slots, &bench_gmem,	&bench_fault,  &bench_tlb,  &bench_tables,
    &bench_log,	  &bench_locks, &bench_nested, &bench_vcpu,
};
#define LISTS (sizeof(lists) / sizeof(lists[0]))
#define RESULTS_MAX 64u

struct options {
	const char *json;
	int list;
	char **names; /* prefixes; none: all */
	int name_count;
};

static void usage(FILE *file)
{
	fputs(
	    "usage: quire-bench [--json FILE] [--list] [NAME...]\n"
	    "\n"
	    "Measures the library. NAME is the beginning of a row's name; without one, all rows.\n"
	    "Each row is CPU time of one operation, and its multiple of a floor that is measured\n"
	    "in the same run: the least that any implementation must do.\n"
	    "\n"
	    "  --json FILE  write the results, in the shape of Google Benchmark\n"
	    "  --list       print the rows and their floors, and measure nothing\n",
	    file);
}

/* 0; or 1 + the exit status. */
static int parse(int argc, char **argv, struct options *options)
{
	options->names = argv;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			usage(stdout);
			return 1;
		}
		if (!strcmp(argv[i], "--list")) {
			options->list = 1;
		} else if (!strcmp(argv[i], "--json") && i + 1 < argc) {
			options->json = argv[++i];
		} else if (argv[i][0] == '-') {
			usage(stderr);
			return 3;
		} else {
			options->names[options->name_count++] = argv[i];
		}
	}
	return 0;
}

static int is_wanted(const struct options *options, const struct bench_row *row)
{
	for (int i = 0; i < options->name_count; i++)
		if (!strncmp(row->name, options->names[i], strlen(options->names[i])))
			return 1;
	return !options->name_count;
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
	int status = parse(argc, argv, &options);
	size_t count;

	if (status)
		return status - 1;
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
