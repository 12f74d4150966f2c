/* The processes with VMs that `quire stat` and `quire view` name, and what each says of itself. */
#ifndef QUIRE_CLI_LOOK_PROCESSES_H
#define QUIRE_CLI_LOOK_PROCESSES_H

#include <stddef.h>
#include <stdint.h>

struct json_value;
struct report_control;

struct process {
	int pid;
	const struct json_value *said; /* what it wrote of itself */
	struct json_value *owned;      /* freed with it; NULL: another has it */
};

struct processes {
	struct process *list;
	size_t count;
	uint64_t time_ns; /* CLOCK_MONOTONIC, when they had answered */
};

/* What the processes are asked for. */
struct question {
	const char *target;    /* a PID, that of a `quire run`, or a name; NULL: all of this user */
	uint64_t count_for_ns; /* they count events and exits so long from now; 0: they need not */
	/* Of each VM a map, too: of these gfns, in at most so many cells; 0: none. */
	uint64_t map_start, map_end;
	uint64_t map_cells;
};

/*
 * Ask all runs of this user and keep what the processes meant answer, by rising PID. Without
 * memory some are left out.
 */
struct processes processes_ask(const struct question *question);
const struct process *processes_find(const struct processes *processes, int pid);
void processes_free(struct processes *processes);
/* The same of what `quire run --stats` has written; a file that is none has no processes. */
struct processes processes_read(const char *path);
/* Say on the standard error output that there is none, and which there are. @command: "quire stat".
 */
void processes_complain(const char *command, const char *target);

#endif
