/* `quire run --stats` and `--trace`: from the files of the run's processes to those asked for. */
#ifndef QUIRE_CLI_REPORT_H
#define QUIRE_CLI_REPORT_H

#include <stdbool.h>

#include "cli/look/page.h"
#include "cli/trace.h"

struct report_control;

struct report {
	const char *stats_path; /* NULL: not wanted */
	const char *trace_path;
	uint32_t trace_events; /* that each thread keeps; 0: as many as usual */
	uint64_t trace_mask;   /* by enum quire_trace_event; 0: all */
	const char *page_path;
	struct page page;
	struct trace_clock clock;
	const char *directory;
	struct report_control *control;
};

/* Is there a file to write at the end, and at SIGUSR2? */
static inline bool report_is_wanted(const struct report *report)
{
	return report->stats_path || report->trace_path || report->page_path;
}

/* Before anything starts: can the files be written? 0, or an error was said. */
int report_check(const struct report *report);
/*
 * Of the events that one of the @patterns names, which are separated by commas and as those of a
 * shell. 0, or an error was said: a pattern fits none.
 */
int report_choose_events(struct report *report, const char *patterns);
/* How many each thread keeps: rounded up to a power of two. Nonzero: no such number. */
int report_size_trace(struct report *report, const char *events);

/* Make the control file in the run's directory. 0 or -errno. */
int report_create(struct report *report);
/* The same of the page, which only the end makes. @program: its argv. */
int report_write_page(struct report *report, char *const *program);
/* Write the other files asked for, from what the processes have left so far. 0, or an error was
 * said. */
int report_write(struct report *report);
/* Remove the processes' files and the control file from @directory. */
void report_remove(const char *directory);

#endif
