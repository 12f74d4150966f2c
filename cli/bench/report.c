/* The table on the terminal, and JSON in the shape of Google Benchmark. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench/bench.h"
#include "frontend/report/json.h"

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

static void write_context(struct json *json)
{
	char host[65] = "", date[32] = "";
	time_t now = time(NULL);
	struct tm local;

	gethostname(host, sizeof(host) - 1);
	if (localtime_r(&now, &local))
		strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S%z", &local);
	json_object(json, "context");
	json_string(json, "date", date);
	json_string(json, "host_name", host);
	json_string(json, "executable", "quire-bench");
	json_signed(json, "num_cpus", sysconf(_SC_NPROCESSORS_ONLN));
	json_string(json, "library_build_type", "release");
	json_end(json);
}

static void write_numbers(struct json *json, const struct bench_result *result)
{
	const struct bench_row *row = result->row;

	json_unsigned(json, "repetitions", result->rounds);
	json_unsigned(json, "iterations", row->operations);
	json_real(json, "real_time", result->median, 3);
	json_real(json, "cpu_time", result->median, 3);
	json_string(json, "time_unit", row->is_in_bytes ? "bytes" : "ns");
	json_real(json, "lowest", result->lowest, 3);
	json_real(json, "highest", result->highest, 3);
	json_real(json, "floor", result->floor, 3);
	json_string(json, "floor_text", row->floor_text);
	json_real(json, "ratio", result->ratio, 4);
	if (!(row->bound > 0))
		return;
	json_real(json, "bound", row->bound, 3);
	json_bool(json, "within_bound", result->ratio <= row->bound);
}

static void write_one(struct json *json, const struct bench_result *result)
{
	json_object(json, NULL);
	json_string(json, "name", result->row->name);
	json_string(json, "run_name", result->row->name);
	json_string(json, "run_type", "iteration");
	if (result->error) {
		json_bool(json, "error_occurred", true);
		json_string(json, "error_message", result->text);
	} else {
		write_numbers(json, result);
	}
	json_end(json);
}

int bench_write_json(const char *path, const struct bench_result *results, size_t count)
{
	struct json json = {.file = fopen(path, "w")};
	int error;

	if (!json.file)
		return -errno;
	json_object(&json, NULL);
	write_context(&json);
	json_array(&json, "benchmarks");
	for (size_t i = 0; i < count; i++)
		write_one(&json, &results[i]);
	json_end(&json);
	json_end(&json);
	error = ferror(json.file) ? -EIO : 0;
	if (fclose(json.file) && !error)
		error = -errno;
	return error;
}
