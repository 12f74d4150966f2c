/* `quire run --sanitize`: what is wanted, and what came of it. */
#include "cli/sanitize.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/output.h"
#include "frontend/report/json.h"
#include "sanitize/control.h"
#include "sanitize/rules.h"

#define EXIT_FOUND 66
/* Deeper than json_*() breaks lines at: a record stays on one line. */
#define RECORD_DEPTH 8u

static int complain(const char *path)
{
	int error = errno;

	fprintf(stderr, "quire run: %s: %s%s\n", path, strerror(error), output_advice(error));
	return -1;
}

static int complain_of_reading(const char *path)
{
	fprintf(stderr, "quire run: %s: %s; name a file that can be read\n", path, strerror(errno));
	return -1;
}

int sanitize_choose(struct sanitize *sanitize, const char *kinds)
{
	for (const char *at = kinds;; at++) {
		size_t length = strcspn(at, ",");
		uint32_t bit = sanitize_kind_bit(at, length);

		if (!bit) {
			fprintf(stderr,
				"quire run: nothing to sanitize is named '%.*s'; there are tlb, "
				"private, dirty and slot\n",
				(int)length, at);
			return -1;
		}
		sanitize->kinds |= bit;
		at += length;
		if (!*at)
			return 0;
	}
}

int sanitize_choose_exit(struct sanitize *sanitize, const char *status)
{
	char *end;
	unsigned long value = strtoul(status, &end, 10);

	if (*end || *status < '0' || *status > '9' || value > 255)
		return -1;
	sanitize->exit_text = status;
	sanitize->exit_status = (int)value;
	return 0;
}

/* The rules of the file at @path into @rules; -1: an error was said. */
static int read_rules(const char *path, struct sanitize_control *control)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t room = 0;
	unsigned int number = 0;
	int error = 0;

	if (!file)
		return complain_of_reading(path);
	errno = 0;
	while (!error && getline(&line, &room, file) >= 0) {
		struct sanitize_rule rule;
		int got = sanitize_rule_parse(line, &rule);

		number++;
		if (got > 0 && control->rule_count == SANITIZE_RULES) {
			fprintf(stderr, "quire run: %s:%u: more than %u suppressions\n", path,
				number, SANITIZE_RULES);
			error = -1;
		} else if (got > 0) {
			control->rules[control->rule_count++] = rule;
		} else if (got < 0) {
			fprintf(stderr,
				"quire run: %s:%u: no suppression; a line is KIND:PATTERN, with a "
				"pattern of at most %u characters\n",
				path, number, SANITIZE_PATTERN_BYTES - 1);
			error = -1;
		}
	}
	if (!error && ferror(file))
		error = complain_of_reading(path);
	free(line);
	fclose(file);
	return error;
}

int sanitize_check(struct sanitize *sanitize)
{
	struct sanitize_control *control;
	int fd, error = 0;

	if (!sanitize->exit_text)
		sanitize->exit_status = EXIT_FOUND;
	if (!sanitize->kinds) {
		if (!sanitize->json_path && !sanitize->rules_path && !sanitize->exit_text)
			return 0;
		fprintf(stderr, "quire run: --sanitize-... need --sanitize\n");
		return -1;
	}
	/* Read the file once: the program may change it later. */
	control = calloc(1, sizeof(*control));
	if (!control)
		return complain("suppressions");
	if (sanitize->rules_path)
		error = read_rules(sanitize->rules_path, control);
	if (!error && sanitize->json_path) {
		fd = open(sanitize->json_path, O_WRONLY | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
		if (fd < 0 && errno != ENXIO)
			error = complain(sanitize->json_path);
		if (fd >= 0)
			close(fd);
	}
	control->kinds = sanitize->kinds;
	sanitize->control = control;
	return error;
}

static void path_in(char path[PATH_MAX], const char *directory)
{
	snprintf(path, PATH_MAX, "%s/" SANITIZE_CONTROL, directory);
}

int sanitize_create(struct sanitize *sanitize, const char *directory)
{
	const size_t bytes = sizeof(struct sanitize_control);
	char path[PATH_MAX];
	void *mapped;
	int fd, error;

	if (!sanitize->kinds)
		return 0;
	path_in(path, directory);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* Without room this fails; without this call a store would raise SIGBUS. */
	error = -posix_fallocate(fd, 0, (off_t)bytes);
	mapped = error ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (mapped == MAP_FAILED)
		return error ? error : -ENOMEM;
	memcpy(mapped, sanitize->control, bytes);
	free(sanitize->control);
	sanitize->control = mapped;
	return 0;
}

/* Programs can write to what they share with us: texts end where their room does. */
static void print_text(struct json *json, const char *key, const char *text, size_t room_bytes)
{
	char copy[SANITIZE_WORDS_BYTES + 1];
	size_t length = strnlen(text, room_bytes);

	memcpy(copy, text, length);
	copy[length] = '\0';
	json_string(json, key, copy);
}

static void print_hex(struct json *json, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	json_string(json, key, text);
}

static void print_range(struct json *json, const char *key, uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	json_array(json, key);
	print_hex(json, NULL, start);
	print_hex(json, NULL, end);
	json_end(json);
}

static void print_stack(struct json *json, const char *key, const struct sanitize_places *places)
{
	if (!places->count)
		return;
	json_object(json, key);
	json_unsigned(json, "tid", places->tid);
	json_array(json, "frames");
	for (uint32_t i = 0; i < places->count && i < SANITIZE_FRAMES; i++) {
		const struct sanitize_place *place = &places->list[i];

		json_object(json, NULL);
		print_hex(json, "address", place->address);
		print_text(json, "module", place->module, sizeof(place->module));
		print_hex(json, "offset", place->offset);
		if (*place->function)
			print_text(json, "function", place->function, sizeof(place->function));
		json_end(json);
	}
	json_end(json);
	json_end(json);
}

/* One line of the file. */
static void print_record(FILE *file, const struct sanitize_record *record)
{
	struct json json = {.file = file, .depth = RECORD_DEPTH};

	json_object(&json, NULL);
	json_string(&json, "kind", sanitize_kind_names[record->kind % SANITIZE_KINDS]);
	json_unsigned(&json, "pid", record->pid);
	print_text(&json, "what", record->what, sizeof(record->what));
	if (record->slot != SANITIZE_NO_SLOT) {
		json_unsigned(&json, "address_space", record->slot >> 16);
		json_unsigned(&json, "slot", record->slot & 0xffff);
	}
	print_range(&json, "guest", record->guest_start, record->guest_end);
	print_range(&json, "host", record->host_start, record->host_end);
	if (*record->mapped)
		print_text(&json, "mapped", record->mapped, sizeof(record->mapped));
	print_stack(&json, "used", &record->used);
	print_stack(&json, "changed", &record->changed);
	json_end(&json);
	fputc('\n', file);
}

static unsigned int count(const struct sanitize_control *control, uint32_t state)
{
	unsigned int found = 0;

	for (uint32_t i = 0; i < SANITIZE_RECORDS; i++)
		found += __atomic_load_n(&control->records[i].state, __ATOMIC_ACQUIRE) == state;
	return found;
}

static int write_json(const struct sanitize *sanitize)
{
	FILE *file = output_begin(sanitize->json_path);

	if (!file)
		return complain(sanitize->json_path);
	for (uint32_t i = 0; i < SANITIZE_RECORDS; i++) {
		const struct sanitize_record *record = &sanitize->control->records[i];

		if (__atomic_load_n(&record->state, __ATOMIC_ACQUIRE) == SANITIZE_FOUND)
			print_record(file, record);
	}
	return output_end(file) ? complain(sanitize->json_path) : 0;
}

int sanitize_settle(struct sanitize *sanitize, int status)
{
	unsigned int found, kept;

	if (!sanitize->kinds)
		return status;
	found = count(sanitize->control, SANITIZE_FOUND);
	kept = count(sanitize->control, SANITIZE_SUPPRESSED);
	if (sanitize->json_path)
		(void)write_json(sanitize);
	if (found || kept)
		fprintf(stderr, "quire: sanitize: %u found, %u suppressed%s\n", found, kept,
			sanitize->control->is_full ? "; there was more than can be kept" : "");
	if (found && WIFEXITED(status) && !WEXITSTATUS(status))
		return W_EXITCODE(sanitize->exit_status, 0);
	return status;
}

void sanitize_remove(const char *directory)
{
	char path[PATH_MAX];

	path_in(path, directory);
	unlink(path);
}
