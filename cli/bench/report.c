/* The table on the terminal, and JSON in the shape of Google Benchmark. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench/bench.h"

void bench_print_head(void)
{
	printf("%-20s %14s %27s %14s %8s %7s\n", "row", "median/op", "spread", "floor/op", "ratio",
	       "bound");
	fflush(stdout);
}

static const char *verdict(const struct bench_result *result)
{
	if (!(result->row->bound > 0))
		return "";
	return result->ratio <= result->row->bound ? "ok" : "over";
}

void bench_print_result(const struct bench_result *result)
{
	const struct bench_row *row = result->row;
	const char *unit = row->is_in_bytes ? "B " : "ns";
	char bound[16] = "-";

	if (result->error) {
		printf("%-20s skipped: %s\n", row->name, result->text);
		fflush(stdout);
		return;
	}
	if (row->bound > 0)
		snprintf(bound, sizeof(bound), "%.2f", row->bound);
	printf("%-20s %11.1f %s %13.1f-%-13.1f %11.1f %s %8.2f %7s %s\n", row->name, result->median,
	       unit, result->lowest, result->highest, result->floor, unit, result->ratio, bound,
	       verdict(result));
	fflush(stdout);
}

static void write_context(FILE *file)
{
	char host[65] = "", date[32] = "";
	time_t now = time(NULL);
	struct tm local;

	gethostname(host, sizeof(host) - 1);
	if (localtime_r(&now, &local))
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S%z", &local);
	fprintf(file,
		"{\n  \"context\": {\n    \"date\": \"%s\",\n    \"host_name\": \"%s\",\n"
		"    \"executable\": \"quire-bench\",\n    \"num_cpus\": %ld,\n"
		"    \"library_build_type\": \"release\"\n  },\n  \"benchmarks\": [",
		date, host, sysconf(_SC_NPROCESSORS_ONLN));
}

static void write_one(FILE *file, const struct bench_result *result)
{
	const struct bench_row *row = result->row;

	fprintf(file,
		"    {\n      \"name\": \"%s\",\n      \"run_name\": \"%s\",\n"
		"      \"run_type\": \"iteration\",\n",
		row->name, row->name);
	if (result->error) {
		fprintf(file,
			"      \"error_occurred\": true,\n      \"error_message\": \"%s\"\n    }",
			result->text);
		return;
	}
	fprintf(file,
		"      \"repetitions\": %u,\n      \"iterations\": %llu,\n"
		"      \"real_time\": %.3f,\n      \"cpu_time\": %.3f,\n"
		"      \"time_unit\": \"%s\",\n      \"lowest\": %.3f,\n      \"highest\": %.3f,\n"
		"      \"floor\": %.3f,\n      \"floor_text\": \"%s\",\n      \"ratio\": %.4f",
		result->rounds, (unsigned long long)row->operations, result->median, result->median,
		row->is_in_bytes ? "bytes" : "ns", result->lowest, result->highest, result->floor,
		row->floor_text, result->ratio);
	if (row->bound > 0)
		fprintf(file, ",\n      \"bound\": %.3f,\n      \"within_bound\": %s", row->bound,
			result->ratio <= row->bound ? "true" : "false");
	fprintf(file, "\n    }");
}

int bench_write_json(const char *path, const struct bench_result *results, size_t count)
{
	FILE *file = fopen(path, "w");
	int error;

	if (!file)
		return -errno;
	write_context(file);
	for (size_t i = 0; i < count; i++) {
		fputs(i ? ",\n" : "\n", file);
		write_one(file, &results[i]);
	}
	fputs("\n  ]\n}\n", file);
	error = ferror(file) ? -EIO : 0;
	if (fclose(file) && !error)
		error = -errno;
	return error;
}
