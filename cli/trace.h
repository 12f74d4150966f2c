/* Trace events of all processes of a run, in order of time, and their printed forms. */
#ifndef QUIRE_CLI_TRACE_H
#define QUIRE_CLI_TRACE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "frontend/report/report.h"

struct trace_line {
	struct report_event event; /* its time in ns of CLOCK_MONOTONIC */
	uint32_t pid;
	char command[16];
};

struct trace {
	struct trace_line *lines;
	size_t count, room;
	uint64_t lost; /* events that newer ones overwrote */
};

/* The same moment on two clocks. */
struct trace_moment {
	uint64_t ns, ticks;
};

/* How the times of events are to be read. */
struct trace_clock {
	enum report_clock clock;
	struct trace_moment begun, now;
};

/* What the machine is good for, from now on. */
struct trace_clock trace_clock_begin(void);
/* Again before events are added: the rate of the TSC is that from the beginning until now. */
void trace_clock_look(struct trace_clock *clock);

/* Of a file: how many rings, events of each, and how to read their times. */
struct trace_shape {
	uint32_t rings, room;
	const struct trace_clock *clock;
};

/* Add the events of one process; those that it is just writing are left out. */
void trace_add(struct trace *trace, const struct report_trace *file,
	       const struct trace_shape *shape);
void trace_sort(struct trace *trace);
void trace_free(struct trace *trace);

/* As the kernel prints its trace file. */
void trace_print_text(const struct trace *trace, FILE *file);
/* As trace-cmd's file, for `trace-cmd report` and KernelShark. */
void trace_print_dat(const struct trace *trace, FILE *file);
/* As chrome://tracing and Perfetto read it; 64-bit hexadecimal fields are strings. */
void trace_print_json(const struct trace *trace, FILE *file);

#endif
