/* `quire run --stats` and `--trace`: from the files of the run's processes to those asked for. */
#ifndef QUIRE_CLI_REPORT_H
#define QUIRE_CLI_REPORT_H

struct report_control;

struct report {
	const char *stats_path; /* NULL: not wanted */
	const char *trace_path;
	const char *directory;
	struct report_control *control;
};

/* Before anything starts: can the files be written? 0, or an error was said. */
int report_check(const struct report *report);
/* Make the control file in the run's directory, when anything is wanted. 0 or -errno. */
int report_create(struct report *report);
/* Write the files asked for, from what the processes have left so far. 0, or an error was said. */
int report_write(const struct report *report);
/* Remove the processes' files and the control file from @directory. */
void report_remove(const char *directory);

#endif
