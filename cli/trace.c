/* Trace events of all processes of a run, in order of time, and their printed forms. */
#include "cli/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"

struct event_shape {
	const char *group, *name, *fields;
};

static const struct event_shape shapes[] = {
#define SHAPE(group, name, count, fields) {#group, #name, fields},
    QUIRE_TRACE_EVENTS(SHAPE)
#undef SHAPE
};

/* Room for one more line; 0 when there is no memory. */
static int make_room(struct trace *trace)
{
	size_t room = trace->room ? trace->room * 2 : 4096;
	struct trace_line *lines;

	if (trace->count < trace->room)
		return 1;
	lines = realloc(trace->lines, room * sizeof(*lines));
	if (!lines)
		return 0;
	trace->lines = lines;
	trace->room = room;
	return 1;
}

void trace_add(struct trace *trace, const struct report_trace *file)
{
	uint64_t next = __atomic_load_n(&file->next, __ATOMIC_ACQUIRE);
	uint64_t first = next > REPORT_EVENTS ? next - REPORT_EVENTS : 0;

	trace->lost += first;
	for (uint64_t i = first; i < next; i++) {
		const struct report_event *event = &file->events[i % REPORT_EVENTS];
		uint64_t sequence = __atomic_load_n(&event->sequence, __ATOMIC_ACQUIRE);
		struct trace_line *line;

		if (sequence != i + 1 || !make_room(trace)) {
			trace->lost++;
			continue;
		}
		line = &trace->lines[trace->count];
		line->event = *event;
		line->pid = file->pid;
		memcpy(line->command, file->command, sizeof(line->command));
		line->command[sizeof(line->command) - 1] = '\0';
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&event->sequence, __ATOMIC_RELAXED) == sequence &&
		    line->event.event < QUIRE_TRACE_COUNT)
			trace->count++;
		else
			trace->lost++;
	}
}

static int compare(const void *first, const void *second)
{
	const struct trace_line *a = first, *b = second;

	return (a->event.time_ns > b->event.time_ns) - (a->event.time_ns < b->event.time_ns);
}

void trace_sort(struct trace *trace)
{
	if (trace->count)
		qsort(trace->lines, trace->count, sizeof(*trace->lines), compare);
}

void trace_free(struct trace *trace)
{
	free(trace->lines);
	*trace = (struct trace){0};
}

/* The next NAME/KIND of @fields; its kind, or 0 at the end. */
static char next_field(const char **fields, const char **name, int *length)
{
	const char *start = *fields;
	char kind;

	if (!*start)
		return 0;
	*name = start;
	*length = (int)strcspn(start, "/");
	kind = start[*length + 1];
	start += *length + 2;
	*fields = *start == ' ' ? start + 1 : start;
	return kind;
}

static void print_value(FILE *file, char kind, uint64_t value)
{
	if (kind == 'd')
		fprintf(file, "%" PRId64, (int64_t)value);
	else
		fprintf(file, kind == 'x' ? "%" PRIx64 : "%" PRIu64, value);
}

void trace_print_text(const struct trace *trace, FILE *file)
{
	fprintf(file,
		"# tracer: nop\n#\n# entries-in-buffer/entries-written: %zu/%" PRIu64 "\n#\n"
		"#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
		"#              | |         |   |||||     |         |\n",
		trace->count, trace->count + trace->lost);
	for (size_t i = 0; i < trace->count; i++) {
		const struct trace_line *line = &trace->lines[i];
		const struct report_event *event = &line->event;
		const char *fields = shapes[event->event].fields, *name;
		char kind;
		int length;

		fprintf(file,
			"%16s-%-7u [%03u] ..... %5" PRIu64 ".%06" PRIu64 ": %s:", line->command,
			event->tid, event->cpu, event->time_ns / 1000000000u,
			event->time_ns / 1000 % 1000000, shapes[event->event].name);
		for (int arg = 0; (kind = next_field(&fields, &name, &length)); arg++) {
			fprintf(file, " %.*s ", length, name);
			print_value(file, kind, event->args[arg]);
		}
		fputc('\n', file);
	}
}

static void print_json_event(struct json *json, const struct trace_line *line)
{
	const struct report_event *event = &line->event;
	const struct event_shape *shape = &shapes[event->event];
	const char *fields = shape->fields, *name;
	char kind, key[32], text[32];
	int length;

	json_object(json, NULL);
	json_string(json, "name", shape->name);
	json_string(json, "cat", shape->group);
	json_string(json, "ph", "i");
	json_string(json, "s", "t");
	snprintf(text, sizeof(text), "%" PRIu64 ".%03" PRIu64, event->time_ns / 1000,
		 event->time_ns % 1000);
	json_number(json, "ts", text);
	json_unsigned(json, "pid", line->pid);
	json_unsigned(json, "tid", event->tid);
	json_object(json, "args");
	for (int arg = 0; (kind = next_field(&fields, &name, &length)); arg++) {
		snprintf(key, sizeof(key), "%.*s", length, name);
		snprintf(text, sizeof(text), "0x%" PRIx64, event->args[arg]);
		if (kind == 'x')
			json_string(json, key, text);
		else if (kind == 'd')
			json_signed(json, key, (int64_t)event->args[arg]);
		else
			json_unsigned(json, key, event->args[arg]);
	}
	json_end(json);
	json_end(json);
}

void trace_print_json(const struct trace *trace, FILE *file)
{
	struct json json = {.file = file};

	json_object(&json, NULL);
	json_string(&json, "displayTimeUnit", "ns");
	json_array(&json, "traceEvents");
	for (size_t i = 0; i < trace->count; i++)
		print_json_event(&json, &trace->lines[i]);
	json_end(&json);
	json_end(&json);
}
