/* `quire run --stats` and `--trace`: from the files of the run's processes to those asked for. */
#include "cli/report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/look/texts.h"
#include "cli/output.h"
#include "cli/trace.h"
#include "cli/trace_event.h"
#include "frontend/report/json.h"
#include "frontend/report/report.h"

/* Some 1.6 GB a thread. */
#define TRACE_EVENTS_MAX (1u << 24)

static int complain(const char *path)
{
	int error = errno;

	fprintf(stderr, "quire run: %s: %s%s\n", path, strerror(error), output_advice(error));
	return -1;
}

/* The events that one pattern names. */
static uint64_t mask_of(const char *pattern)
{
	uint64_t mask = 0;

	for (unsigned int i = 0; i < QUIRE_TRACE_COUNT; i++)
		if (!fnmatch(pattern, trace_events[i].name, 0))
			mask |= UINT64_C(1) << i;
	return mask;
}

int report_choose_events(struct report *report, const char *patterns)
{
	char *words = strdup(patterns), *rest = words, *word;
	int error = words ? 0 : -1;

	while (!error && (word = strsep(&rest, ","))) {
		uint64_t mask = mask_of(word);

		report->trace_mask |= mask;
		error = mask ? 0 : -1;
		if (error)
			fprintf(stderr, "quire run: no event is named '%s'; try 'kvm_*'\n", word);
	}
	free(words);
	return error;
}

int report_size_trace(struct report *report, const char *events)
{
	char *end;
	unsigned long wanted = strtoul(events, &end, 10);

	if (*end || *events < '0' || *events > '9' || !wanted || wanted > TRACE_EVENTS_MAX)
		return -1;
	report->trace_events = 2 * REPORT_ROOM;
	while (report->trace_events < wanted)
		report->trace_events *= 2;
	return 0;
}

int report_create(struct report *report)
{
	char path[PATH_MAX];
	int fd, error = 0;
	void *mapped;

	snprintf(path, sizeof(path), "%s/" REPORT_CONTROL, report->directory);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, sizeof(*report->control)))
		error = -errno;
	/* Room that is not there is to be missed here, not by SIGBUS. */
	if (!error)
		error = -posix_fallocate(fd, 0, sizeof(*report->control));
	mapped =
	    error ? MAP_FAILED
		  : mmap(NULL, sizeof(*report->control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mapped == MAP_FAILED)
		return error ? error : -ENOMEM;
	report->control = mapped;
	report->control->flags =
	    (report->stats_path || report->page_path ? REPORT_WANTS_STATS : 0) |
	    (report->trace_path ? REPORT_WANTS_TRACE : 0);
	if (!report->trace_events)
		report->trace_events = REPORT_EVENTS;
	report->control->trace_events = report->trace_events;
	report->clock = trace_clock_begin();
	report->control->clock = report->clock.clock;
	report->control->trace_mask = report->trace_mask ? report->trace_mask : UINT64_MAX;
	report->page.directory = report->directory;
	report->page.control = report->control;
	if (report->page_path)
		page_begin(&report->page);
	return 0;
}

/* Can the file be written? It is made if it is not there. A pipe without a reader may get one. */
static int try_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);

	if (fd < 0)
		return errno == ENXIO ? 0 : complain(path);
	close(fd);
	return 0;
}

typedef void print_trace(const struct trace *trace, FILE *file);

static bool ends_with(const char *path, const char *end)
{
	size_t length = strlen(path);

	return length > strlen(end) && !strcmp(path + length - strlen(end), end);
}

/*
 * The form of a file by its name. NULL: it has none, and gets the kernel's text; the other forms go
 * beside it, as FILE.json and FILE.dat.
 */
static print_trace *form_of(const char *path)
{
	if (ends_with(path, ".json"))
		return trace_print_json;
	return ends_with(path, ".dat") ? trace_print_dat : NULL;
}

int report_check(const struct report *report)
{
	char json[PATH_MAX], dat[PATH_MAX];

	if (report->stats_path && try_file(report->stats_path))
		return -1;
	if (report->page_path && try_file(report->page_path))
		return -1;
	if (!report->trace_path)
		return 0;
	if (form_of(report->trace_path))
		return try_file(report->trace_path);
	snprintf(json, sizeof(json), "%s.json", report->trace_path);
	snprintf(dat, sizeof(dat), "%s.dat", report->trace_path);
	return try_file(report->trace_path) || try_file(json) || try_file(dat) ? -1 : 0;
}

static void print_process(const char *text, size_t size_bytes, int pid, void *ctx)
{
	struct json *json = ctx;

	json_object(json, NULL);
	json_members(json, text, size_bytes);
	if (!size_bytes) {
		json_signed(json, "pid", pid);
		json_array(json, "vms");
		json_end(json);
	}
	json_end(json);
}

static int write_stats(const struct report *report)
{
	struct json json = {0};

	texts_ask(report->directory, report->control);
	json.file = output_begin(report->stats_path);
	if (!json.file)
		return complain(report->stats_path);
	json_object(&json, NULL);
	json_array(&json, "processes");
	texts_each(report->directory, TEXTS_ALL, print_process, &json);
	json_end(&json);
	json_end(&json);
	return output_end(json.file) ? complain(report->stats_path) : 0;
}

/* What the files are to become, and how many events each has. */
struct harvest {
	struct trace trace;
	struct trace_shape shape;
};

static void take_events(const void *file, size_t size_bytes, int pid, void *ctx)
{
	const struct report_trace *trace = file;
	struct harvest *harvest = ctx;

	harvest->shape.rings = report_trace_rings(size_bytes, harvest->shape.room);
	if (!harvest->shape.rings)
		return;
	if (trace->is_cut)
		fprintf(stderr,
			"quire run: no room for all events of process %d; --trace-size and "
			"--trace-filter make them fewer\n",
			pid);
	trace_add(&harvest->trace, trace, &harvest->shape);
}

static int write_format(const struct trace *trace, const char *path, print_trace *print)
{
	FILE *file = output_begin(path);

	if (!file)
		return complain(path);
	print(trace, file);
	return output_end(file) ? complain(path) : 0;
}

static int write_trace(struct report *report)
{
	/* Of our own numbers: programs can write to what they share with us. */
	struct harvest harvest = {.shape = {.room = report->trace_events, .clock = &report->clock}};
	const struct trace *trace = &harvest.trace;
	print_trace *form = form_of(report->trace_path);
	char path[PATH_MAX];
	int failed = 0;

	trace_clock_look(&report->clock);
	texts_each_file(report->directory, REPORT_TRACE, take_events, &harvest);
	trace_sort(&harvest.trace);
	failed = write_format(trace, report->trace_path, form ? form : trace_print_text);
	if (!form) {
		snprintf(path, sizeof(path), "%s.json", report->trace_path);
		failed |= write_format(trace, path, trace_print_json);
		snprintf(path, sizeof(path), "%s.dat", report->trace_path);
		failed |= write_format(trace, path, trace_print_dat);
	}
	trace_free(&harvest.trace);
	return failed;
}

int report_write_page(struct report *report, char *const *program)
{
	page_take(&report->page);
	return page_write(&report->page, program, report->page_path) ? complain(report->page_path)
								     : 0;
}

int report_write(struct report *report)
{
	int failed = 0;

	if (report->stats_path)
		failed |= write_stats(report);
	if (report->trace_path)
		failed |= write_trace(report);
	return failed;
}

void report_remove(const char *directory)
{
	static const char *const prefixes[] = {REPORT_CONTROL, REPORT_STATS, REPORT_TRACE};
	DIR *listing = opendir(directory);
	struct dirent *entry;

	while (listing && (entry = readdir(listing)))
		for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
			if (!strncmp(entry->d_name, prefixes[i], strlen(prefixes[i])))
				unlinkat(dirfd(listing), entry->d_name, 0);
	if (listing)
		closedir(listing);
}
