/* Trace events of all processes of a run, in order of time, and their printed forms. */
#include "cli/trace.h"

#include <cpuid.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/trace_event.h"

#define NS_PER_S 1000000000u
/* A TSC that counts the same in all states of a processor: a leaf of AMD's manual. */
#define LEAF_POWER 0x80000007u
#define POWER_TSC_INVARIANT (1u << 8)

static struct trace_moment moment_now(enum report_clock clock)
{
	struct trace_moment moment = {0};
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	moment.ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
	if (clock == REPORT_CLOCK_TSC)
		moment.ticks = __builtin_ia32_rdtsc();
	return moment;
}

/* The kernel has found that the processors' counters agree: it uses them itself. */
static bool kernel_trusts_tsc(void)
{
	FILE *file =
	    fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	char name[16] = "";

	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = '\0';
	fclose(file);
	return !strcmp(name, "tsc\n");
}

static bool has_tsc(void)
{
	unsigned int a, b, c, power;

	return __get_cpuid(LEAF_POWER, &a, &b, &c, &power) && (power & POWER_TSC_INVARIANT) &&
	       kernel_trusts_tsc();
}

struct trace_clock trace_clock_begin(void)
{
	struct trace_clock clock = {.clock = has_tsc() ? REPORT_CLOCK_TSC : REPORT_CLOCK_MONOTONIC};

	clock.begun = clock.now = moment_now(clock.clock);
	return clock;
}

void trace_clock_look(struct trace_clock *clock)
{
	clock->now = moment_now(clock->clock);
}

static uint64_t clock_ns(const struct trace_clock *clock, uint64_t time)
{
	uint64_t ticks = clock->now.ticks - clock->begun.ticks;
	uint64_t ns = clock->now.ns - clock->begun.ns;

	if (clock->clock != REPORT_CLOCK_TSC || !ticks)
		return time;
	return clock->begun.ns +
	       (uint64_t)((__int128)(int64_t)(time - clock->begun.ticks) * ns / ticks);
}

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

/* The events of one ring. */
static void add_ring(struct trace *trace, const struct report_trace *file, uint32_t which,
		     const struct trace_shape *shape)
{
	uint32_t room = shape->room;
	const struct report_event *events = report_ring_events(file, which, room);
	uint64_t next = __atomic_load_n(&file->rings[which].next, __ATOMIC_ACQUIRE);
	uint64_t first = next > room ? next - room : 0;

	trace->lost += first;
	for (uint64_t i = first; i < next; i++) {
		const struct report_event *event = &events[i % room];
		uint64_t sequence = __atomic_load_n(&event->sequence, __ATOMIC_ACQUIRE);
		struct trace_line *line;

		if (sequence != i + 1 || !make_room(trace)) {
			trace->lost++;
			continue;
		}
		line = &trace->lines[trace->count];
		line->event = *event;
		line->event.time = clock_ns(shape->clock, event->time);
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

void trace_add(struct trace *trace, const struct report_trace *file,
	       const struct trace_shape *shape)
{
	for (uint32_t which = 0; which < shape->rings; which++)
		add_ring(trace, file, which, shape);
}

static int compare(const void *first, const void *second)
{
	const struct trace_line *a = first, *b = second;

	if (a->event.time != b->event.time)
		return a->event.time > b->event.time ? 1 : -1;
	/* The clock stood still: as each thread wrote them. */
	if (a->event.tid != b->event.tid)
		return a->event.tid > b->event.tid ? 1 : -1;
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
		uint64_t us = (event->time + 500) / 1000; /* as the kernel rounds it */

		fprintf(file,
			"%16s-%-7u [%03u] ..... %5" PRIu64 ".%06" PRIu64 ": %s: ", line->command,
			event->tid, event->cpu, us / 1000000u, us % 1000000, shape->name);
		shape->print_body(file, event->args);
		fputc('\n', file);
	}
}
