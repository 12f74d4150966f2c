/* `quire run --sanitize`: what is wanted, and what came of it. */
#ifndef QUIRE_CLI_SANITIZE_H
#define QUIRE_CLI_SANITIZE_H

#include <stdint.h>

struct sanitize_control;

struct sanitize {
	uint32_t kinds;			    /* bits by enum sanitize_kind; 0: none */
	const char *json_path, *rules_path; /* NULL: none */
	const char *exit_text;
	int exit_status; /* of a run that found something, and whose program ended with 0 */
	struct sanitize_control *control;
};

/* The kinds of --sanitize, separated by commas: 0, or an error was said. */
int sanitize_choose(struct sanitize *sanitize, const char *kinds);
/* The status of --sanitize-exit. Nonzero: it is none. */
int sanitize_choose_exit(struct sanitize *sanitize, const char *status);

/*
 * Before anything starts: do the options go together, is the suppressions file one, can the other
 * be written? 0, or an error was said.
 */
int sanitize_check(struct sanitize *sanitize);
/* Make the file in the run's directory, if the run looks for something. 0 or -errno. */
int sanitize_create(struct sanitize *sanitize, const char *directory);
/*
 * After the run: write the JSON lines, and say how much was found where it was not nothing. The
 * exit status for a program that ended with @status, as waitpid() gives it: the same, or another.
 */
int sanitize_settle(struct sanitize *sanitize, int status);
/* Remove the file from @directory. */
void sanitize_remove(const char *directory);

#endif
