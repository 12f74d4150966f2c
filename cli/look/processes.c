/* The processes with VMs that `quire stat` and `quire view` name, and what each says of itself. */
#include "cli/look/processes.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/look/json_read.h"
#include "cli/look/runs.h"
#include "cli/look/texts.h"
#include "frontend/report/report.h"

#define NS_PER_S 1000000000u

/* While the runs are visited. */
struct search {
	const struct question *question;
	pid_t run; /* the process of the command */
	struct processes *found;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The program's name as it was called; ps(1) shows it, too. */
static bool was_called(int pid, const char *name)
{
	char path[64], called[PATH_MAX];
	size_t got = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	file = fopen(path, "re");
	if (!file)
		return false;
	got = fread(called, 1, sizeof(called) - 1, file);
	fclose(file);
	called[got] = '\0';
	return !strcmp(base_of(called), name);
}

static bool is_meant(const struct search *search, int pid, const struct json_value *said)
{
	const char *target = search->question->target;
	char *end;
	long number;

	if (!target)
		return true;
	number = strtol(target, &end, 10);
	if (isdigit((unsigned char)*target) && !*end)
		return number == pid || number == search->run;
	return !strcmp(target, json_member_text(said, "command")) || was_called(pid, target);
}

/* The members as an object; NULL: they are none, or there is no memory. */
static struct json_value *read_object(const char *members, size_t size_bytes)
{
	char *text = malloc(size_bytes + 2);
	struct json_value *said = NULL;

	if (text) {
		text[0] = '{';
		memcpy(text + 1, members, size_bytes);
		text[size_bytes + 1] = '}';
		said = json_read(text, size_bytes + 2);
	}
	free(text);
	return said;
}

static void take_text(const char *text, size_t size_bytes, int pid, void *ctx)
{
	struct search *search = ctx;
	struct processes *found = search->found;
	struct json_value *said = read_object(text, size_bytes);
	struct process *list = NULL;
	size_t at;

	if (said && is_meant(search, pid, said))
		list = reallocarray(found->list, found->count + 1, sizeof(*list));
	if (!list) {
		json_read_free(said);
		return;
	}
	found->list = list;
	for (at = found->count++; at && list[at - 1].pid > pid; at--)
		list[at] = list[at - 1];
	list[at] = (struct process){pid, said, said};
}

/* Every text that is begun until the time returned has a map; 0: none need have one. */
static uint64_t ask_for_map(struct report_control *control, const struct question *question)
{
	uint64_t until = now_ns() + TEXTS_ANSWER_NS;

	if (!question->map_cells)
		return 0;
	__atomic_store_n(&control->map_start, question->map_start, __ATOMIC_RELAXED);
	__atomic_store_n(&control->map_end, question->map_end, __ATOMIC_RELAXED);
	__atomic_store_n(&control->map_cells, question->map_cells, __ATOMIC_RELAXED);
	__atomic_store_n(&control->map_until, until, __ATOMIC_RELEASE);
	return until;
}

/* The answers have come: texts that others ask for need no map, unless another look wants one. */
static void end_map(struct report_control *control, uint64_t until)
{
	if (until)
		(void)__atomic_compare_exchange_n(&control->map_until, &until, 0, false,
						  __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static void visit_run(const char *directory, pid_t pid, void *ctx)
{
	struct search *search = ctx;
	struct report_control *control = texts_open(directory);
	uint64_t until = now_ns() + search->question->count_for_ns, map_until;

	if (!control)
		return;
	/* Of two that look at once the longer one counts. */
	if (search->question->count_for_ns &&
	    __atomic_load_n(&control->count_until, __ATOMIC_RELAXED) < until)
		__atomic_store_n(&control->count_until, until, __ATOMIC_RELEASE);
	map_until = ask_for_map(control, search->question);
	search->run = pid;
	texts_ask(directory, control);
	end_map(control, map_until);
	texts_close(control);
	texts_each(directory, TEXTS_OF_THE_LIVING, take_text, search);
}

struct processes processes_ask(const struct question *question)
{
	struct processes found = {0};
	struct search search = {.question = question, .found = &found};

	runs_each(visit_run, &search);
	found.time_ns = now_ns();
	return found;
}

/* A file's bytes, to be freed; NULL. */
static char *read_file(const char *path, size_t *size_bytes)
{
	FILE *file = fopen(path, "re");
	char *text = NULL, *more;
	size_t room = 0, got = 1;

	for (*size_bytes = 0; file && got; *size_bytes += got) {
		if (*size_bytes == room) {
			more = realloc(text, room += 1u << 20);
			if (!more)
				break;
			text = more;
		}
		got = fread(text + *size_bytes, 1, room - *size_bytes, file);
	}
	if (file)
		fclose(file);
	return text;
}

struct processes processes_read(const char *path)
{
	struct processes found = {0};
	size_t size_bytes;
	char *text = read_file(path, &size_bytes);
	struct json_value *root = text ? json_read(text, size_bytes) : NULL;
	const struct json_value *said;

	free(text);
	json_each(said, json_member(root, "processes")) found.count++;
	found.list = found.count ? calloc(found.count, sizeof(*found.list)) : NULL;
	found.count = 0;
	if (!found.list) {
		json_read_free(root);
		return found;
	}
	json_each(said, json_member(root, "processes")) found.list[found.count++] =
	    (struct process){.pid = (int)json_member_number(said, "pid"), .said = said};
	found.list[0].owned = root;
	return found;
}

const struct process *processes_find(const struct processes *processes, int pid)
{
	for (size_t i = 0; i < processes->count; i++)
		if (processes->list[i].pid == pid)
			return &processes->list[i];
	return NULL;
}

void processes_free(struct processes *processes)
{
	for (size_t i = 0; i < processes->count; i++)
		json_read_free(processes->list[i].owned);
	free(processes->list);
	*processes = (struct processes){0};
}

void processes_complain(const char *command, const char *target)
{
	struct processes all = processes_ask(&(struct question){0});

	if (target)
		fprintf(stderr, "%s: no process of a run of yours is '%s'; ", command, target);
	else
		fprintf(stderr, "%s: ", command);
	if (!all.count)
		fprintf(stderr, "no program that `quire run` started has had a VM\n");
	else
		fprintf(stderr, "there are");
	for (size_t i = 0; i < all.count; i++)
		fprintf(stderr, " %d (%s)%s", all.list[i].pid,
			json_member_text(all.list[i].said, "command"),
			i + 1 < all.count ? "," : "\n");
	processes_free(&all);
}
