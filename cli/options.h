/* Options of a command from one table: what getopt_long() takes, what --help prints. */
#ifndef QUIRE_CLI_OPTIONS_H
#define QUIRE_CLI_OPTIONS_H

#include <stdio.h>

/* The last row has no name. Every command also takes --help, which is in no table. */
struct cli_option {
	const char *name;
	const char *value; /* what --help calls it; NULL: the option has none */
	const char *help;  /* one line */
	int key;	   /* what take() gets; from 0 on */
};

struct cli_command {
	const char *name;    /* as it is called: "quire run" */
	const char *operand; /* what follows the options, as --help says it; NULL: nothing may */
	const char *about;   /* one line */
	const struct cli_option *options;
	/* The option @key and its value: 0, or nonzero for a value that is not one. */
	int (*take)(void *ctx, int key, const char *value);
};

#define EXIT_USAGE 2
/* cli_parse(): the command goes on. */
#define CLI_GO_ON (-1)

/*
 * Take the options of argv[1] on; *@rest is the index of what follows them. An option may be cut
 * short, and its value be a word of its own or follow '='. CLI_GO_ON, or the exit status with which
 * the command ends: 0 after --help; EXIT_USAGE, and the standard error output says why.
 */
int cli_parse(const struct cli_command *command, int argc, char **argv, void *ctx, int *rest);
void cli_print_help(const struct cli_command *command, FILE *file);

#endif
