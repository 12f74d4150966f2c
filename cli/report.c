/* `quire run --stats` and `--trace`: from the files of the run's processes to those asked for. */
#include "cli/report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/trace.h"
#include "frontend/report/json.h"
#include "frontend/report/report.h"

/* How long a living process may take to answer. */
#define ANSWER_TRIES 100
#define ANSWER_WAIT_US 5000
#define COPY_TRIES 100

static int complain(const char *path)
{
	fprintf(stderr, "quire run: %s: %s\n", path, strerror(errno));
	return -1;
}

int report_create(struct report *report)
{
	char path[PATH_MAX];
	int fd, error = 0;
	void *mapped;

	if (!report->stats_path && !report->trace_path)
		return 0;
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
	report->control->flags = (report->stats_path ? REPORT_WANTS_STATS : 0) |
				 (report->trace_path ? REPORT_WANTS_TRACE : 0);
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
	if (!report->trace_path)
		return 0;
	if (form_of(report->trace_path))
		return try_file(report->trace_path);
	snprintf(json, sizeof(json), "%s.json", report->trace_path);
	snprintf(dat, sizeof(dat), "%s.dat", report->trace_path);
	return try_file(report->trace_path) || try_file(json) || try_file(dat) ? -1 : 0;
}

/* A process's file, read-only; NULL when it is not whole. */
static const void *map_file(const char *directory, const char *name, size_t size_bytes)
{
	char path[PATH_MAX];
	void *mapped = MAP_FAILED;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (lseek(fd, 0, SEEK_END) == (off_t)size_bytes)
		mapped = mmap(NULL, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return mapped == MAP_FAILED ? NULL : mapped;
}

typedef void (*file_fn)(const void *file, int pid, void *ctx);

/* Every file PREFIX.PID, mapped while @visit looks at it. */
static void each_file(const char *directory, const char *prefix, size_t size_bytes, file_fn visit,
		      void *ctx)
{
	DIR *listing = opendir(directory);
	struct dirent *entry;

	while (listing && (entry = readdir(listing))) {
		const void *file;

		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		file = map_file(directory, entry->d_name, size_bytes);
		if (!file)
			continue;
		visit(file, atoi(entry->d_name + strlen(prefix)), ctx);
		munmap((void *)(uintptr_t)file, size_bytes);
	}
	if (listing)
		closedir(listing);
}

static int is_alive(int pid)
{
	char path[64], state = 'X';
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 'R';
	fclose(file);
	return state != 'Z' && state != 'X';
}

/* Wait until the process has answered, or cannot. */
static void wait_answer(const void *file, int pid, void *ctx)
{
	const struct report_stats *stats = file;
	uint32_t request = *(const uint32_t *)ctx;

	for (int i = 0; i < ANSWER_TRIES && is_alive(pid); i++) {
		uint32_t answered = __atomic_load_n(&stats->answered, __ATOMIC_ACQUIRE);

		if (answered == REPORT_RETIRED || (int32_t)(answered - request) >= 0)
			return;
		usleep(ANSWER_WAIT_US);
	}
}

/* The process's text, which it may be writing anew: copied while no snapshot began. Its size. */
static uint32_t copy_text(const struct report_stats *stats, char *text)
{
	for (int i = 0; i < COPY_TRIES; i++) {
		uint32_t begun = __atomic_load_n(&stats->snapshots, __ATOMIC_ACQUIRE);
		uint32_t current = __atomic_load_n(&stats->current, __ATOMIC_ACQUIRE) & 1;
		uint32_t size_bytes = stats->size_bytes[current];

		if (size_bytes > REPORT_TEXT_BYTES)
			size_bytes = REPORT_TEXT_BYTES;
		memcpy(text, stats->texts[current], size_bytes);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&stats->snapshots, __ATOMIC_RELAXED) == begun)
			return size_bytes;
	}
	return 0;
}

static void print_process(const void *file, int pid, void *ctx)
{
	static char text[REPORT_TEXT_BYTES];
	struct json *json = ctx;
	uint32_t size_bytes = copy_text(file, text);

	json_object(json, NULL);
	json_signed(json, "pid", pid);
	json_array(json, "vms");
	json_members(json, text, size_bytes);
	json_end(json);
	json_end(json);
}

static int write_stats(const struct report *report)
{
	struct json json = {0};
	uint32_t request = __atomic_add_fetch(&report->control->request, 1, __ATOMIC_RELEASE);

	syscall(SYS_futex, &report->control->request, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	each_file(report->directory, REPORT_STATS, sizeof(struct report_stats), wait_answer,
		  &request);
	json.file = fopen(report->stats_path, "we");
	if (!json.file)
		return complain(report->stats_path);
	json_object(&json, NULL);
	json_array(&json, "processes");
	each_file(report->directory, REPORT_STATS, sizeof(struct report_stats), print_process,
		  &json);
	json_end(&json);
	json_end(&json);
	return fclose(json.file) ? complain(report->stats_path) : 0;
}

static void take_events(const void *file, int pid, void *ctx)
{
	const struct report_trace *trace = file;

	if (trace->is_cut)
		fprintf(stderr, "quire run: no room for all events of process %d\n", pid);
	trace_add(ctx, trace);
}

static int write_format(const struct trace *trace, const char *path, print_trace *print)
{
	FILE *file = fopen(path, "we");

	if (!file)
		return complain(path);
	print(trace, file);
	return fclose(file) ? complain(path) : 0;
}

static int write_trace(const struct report *report)
{
	struct trace trace = {0};
	print_trace *form = form_of(report->trace_path);
	char path[PATH_MAX];
	int failed = 0;

	each_file(report->directory, REPORT_TRACE, sizeof(struct report_trace), take_events,
		  &trace);
	trace_sort(&trace);
	failed = write_format(&trace, report->trace_path, form ? form : trace_print_text);
	if (!form) {
		snprintf(path, sizeof(path), "%s.json", report->trace_path);
		failed |= write_format(&trace, path, trace_print_json);
		snprintf(path, sizeof(path), "%s.dat", report->trace_path);
		failed |= write_format(&trace, path, trace_print_dat);
	}
	trace_free(&trace);
	return failed;
}

int report_write(const struct report *report)
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
