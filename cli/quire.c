/* The `quire` command. */
#include "cli/quire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name;
	const struct cli_command *command;
	int (*perform)(int argc, char **argv);
} commands[] = {
    {"run", &run_command, command_run},
    {"stat", &stat_command, command_stat},
    {"view", &view_command, command_view},
    {"doctor", &doctor_command, command_doctor},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void print_usage(FILE *file)
{
	for (size_t i = 0; i < COMMANDS; i++) {
		cli_print_help(commands[i].command, file);
		fputc('\n', file);
	}
	fputs("usage: quire version | help\n\n"
	      "`quire run` needs no root, no kernel module and no /dev/kvm. PROGRAM may be a "
	      "script,\n"
	      "or static: quire doctor says how it is served. The run's own processes find the "
	      "module\n"
	      "parameters in /sys/module. See quire(1).\n",
	      file);
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";

	for (size_t i = 0; i < COMMANDS; i++)
		if (!strcmp(name, commands[i].name))
			return commands[i].perform(argc - 1, argv + 1);
	if (!strcmp(name, "version") || !strcmp(name, "--version")) {
		printf("quire %s\n", QUIRE_VERSION);
		return EXIT_SUCCESS;
	}
	if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h")) {
		print_usage(stdout);
		return EXIT_SUCCESS;
	}
	if (*name)
		fprintf(stderr, "quire: no command '%s'; there are:\n", name);
	print_usage(stderr);
	return EXIT_USAGE;
}
