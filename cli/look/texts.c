/* The texts that processes of a run keep of themselves: asking for fresh ones, reading them. */
#include "cli/look/texts.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "frontend/report/report.h"

#define NS_PER_S UINT64_C(1000000000)
#define ANSWER_WAIT_US 5000
#define COPY_TRIES 100

/*
 * A file of *@size_bytes, shared; NULL when it is not whole. 0 becomes what it has, unless that is
 * none.
 */
static void *map_file(const char *directory, const char *name, size_t *size_bytes, int protection)
{
	off_t end;
	char path[PATH_MAX];
	void *mapped = MAP_FAILED;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	end = lseek(fd, 0, SEEK_END);
	if (!*size_bytes && end > 0)
		*size_bytes = (size_t)end;
	if (end > 0 && end == (off_t)*size_bytes)
		mapped = mmap(NULL, *size_bytes, protection, MAP_SHARED, fd, 0);
	close(fd);
	return mapped == MAP_FAILED ? NULL : mapped;
}

struct report_control *texts_open(const char *directory)
{
	size_t size_bytes = sizeof(struct report_control);

	return map_file(directory, REPORT_CONTROL, &size_bytes, PROT_READ | PROT_WRITE);
}

void texts_close(struct report_control *control)
{
	if (control)
		munmap(control, sizeof(*control));
}

void texts_each_file(const char *directory, const char *prefix, file_fn *visit, void *ctx)
{
	DIR *listing = opendir(directory);
	struct dirent *entry;

	while (listing && (entry = readdir(listing))) {
		size_t size_bytes = 0;
		void *file;

		if (strncmp(entry->d_name, prefix, strlen(prefix)))
			continue;
		file = map_file(directory, entry->d_name, &size_bytes, PROT_READ);
		if (!file)
			continue;
		visit(file, size_bytes, atoi(entry->d_name + strlen(prefix)), ctx);
		munmap(file, size_bytes);
	}
	if (listing)
		closedir(listing);
}

static bool is_alive(int pid)
{
	char path[64], text[256];
	const char *name_end;
	size_t got;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	got = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[got] = '\0';
	/* The name may have parentheses, too. */
	name_end = strrchr(text, ')');
	return name_end && name_end[1] == ' ' && name_end[2] != 'Z' && name_end[2] != 'X';
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* All processes together have until then: several that are stopped take no longer than one. */
struct question_asked {
	uint32_t request;
	uint64_t until_ns;
};

static void wait_answer(const void *file, size_t size_bytes, int pid, void *ctx)
{
	const struct report_stats *stats = file;
	const struct question_asked *asked = ctx;

	if (!report_text_bytes(size_bytes))
		return;
	while (is_alive(pid)) {
		uint32_t answered = __atomic_load_n(&stats->answered, __ATOMIC_ACQUIRE);

		if (answered == REPORT_RETIRED || (int32_t)(answered - asked->request) >= 0 ||
		    now_ns() >= asked->until_ns)
			return;
		usleep(ANSWER_WAIT_US);
	}
}

void texts_ask(const char *directory, struct report_control *control)
{
	struct question_asked asked = {
	    .request = __atomic_add_fetch(&control->request, 1, __ATOMIC_RELEASE),
	    .until_ns = now_ns() + TEXTS_ANSWER_NS,
	};

	syscall(SYS_futex, &control->request, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	texts_each_file(directory, REPORT_STATS, wait_answer, &asked);
}

/*
 * The process's text of @room_bytes at most, which it may be writing anew: copied while no snapshot
 * began. Its size.
 */
static uint32_t copy_text(const struct report_stats *stats, uint32_t room_bytes, char *text)
{
	for (int i = 0; i < COPY_TRIES; i++) {
		uint32_t begun = __atomic_load_n(&stats->snapshots, __ATOMIC_ACQUIRE);
		uint32_t current = __atomic_load_n(&stats->current, __ATOMIC_ACQUIRE) & 1;
		uint32_t size_bytes = stats->size_bytes[current];

		if (size_bytes > room_bytes)
			size_bytes = room_bytes;
		memcpy(text, stats->texts + (uint64_t)current * room_bytes, size_bytes);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&stats->snapshots, __ATOMIC_RELAXED) == begun)
			return size_bytes;
	}
	return 0;
}

struct visit {
	enum texts_of which;
	text_fn *function;
	void *ctx;
};

static void visit_text(const void *file, size_t file_bytes, int pid, void *ctx)
{
	static char text[REPORT_TEXT_BYTES];
	const struct visit *visit = ctx;
	const struct report_stats *stats = file;
	uint32_t room_bytes = report_text_bytes(file_bytes), size_bytes, answered;

	if (!room_bytes)
		return;
	answered = __atomic_load_n(&stats->answered, __ATOMIC_ACQUIRE);
	/* A program that became another leaves its text, and the process goes on. */
	if (visit->which == TEXTS_OF_THE_LIVING && (answered == REPORT_RETIRED || !is_alive(pid)))
		return;
	size_bytes = copy_text(stats, room_bytes, text);
	if (size_bytes || visit->which == TEXTS_ALL)
		visit->function(text, size_bytes, pid, visit->ctx);
}

void texts_each(const char *directory, enum texts_of which, text_fn *function, void *ctx)
{
	struct visit visit = {which, function, ctx};

	texts_each_file(directory, REPORT_STATS, visit_text, &visit);
}
