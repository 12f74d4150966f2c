/* The `quire` command: one function a subcommand. */
#ifndef QUIRE_CLI_QUIRE_H
#define QUIRE_CLI_QUIRE_H

#include "cli/options.h"

/* Exit statuses as a shell gives them. */
#define EXIT_CANNOT_RUN 126
#define EXIT_NOT_FOUND 127

extern const struct cli_command run_command, stat_command, view_command, doctor_command;

/* @argv[0] is the subcommand's name; the result is the exit status. */
int command_run(int argc, char **argv);
int command_stat(int argc, char **argv);
int command_view(int argc, char **argv);
int command_doctor(int argc, char **argv);

/* Where the preloaded library lies: an absolute path in @path (PATH_MAX). 0 or -ENOENT. */
int find_library(char *path);
/* The same for quire-engine, which static programs are started on. */
int find_engine(char *path);

#endif
