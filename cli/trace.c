/* Trace events of all processes of a run, in order of time, and their printed forms. */
#include "cli/trace.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace_event.h"

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

void trace_add(struct trace *trace, const struct report_trace *file, uint32_t room)
{
	uint64_t next = __atomic_load_n(&file->next, __ATOMIC_ACQUIRE);
	uint64_t first = next > room ? next - room : 0;

	trace->lost += first;
	for (uint64_t i = first; i < next; i++) {
		const struct report_event *event = &file->events[i % room];
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

	if (a->event.time_ns != b->event.time_ns)
		return a->event.time_ns > b->event.time_ns ? 1 : -1;
	/* The clock stood still: as each process wrote them. */
	if (a->pid != b->pid)
		return a->pid > b->pid ? 1 : -1;
	return (a->event.sequence > b->event.sequence) - (a->event.sequence < b->event.sequence);
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
		const struct trace_event *shape = &trace_events[event->event];
		uint64_t us = (event->time_ns + 500) / 1000; /* as the kernel rounds it */

		fprintf(file,
			"%16s-%-7u [%03u] ..... %5" PRIu64 ".%06" PRIu64 ": %s: ", line->command,
			event->tid, event->cpu, us / 1000000u, us % 1000000, shape->name);
		shape->print_body(file, event->args);
		fputc('\n', file);
	}
}
