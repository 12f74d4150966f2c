/* The `quire` command. */
#include "cli/quire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: quire run [--param MODULE.NAME=VALUE]... [--stats FILE] [--trace FILE] [--]\n"
    "                 PROGRAM [ARGUMENTS]\n"
    "       quire doctor [--json] [-- PROGRAM]\n"
    "       quire version\n"
    "\n"
    "  run      run PROGRAM, unmodified and dynamically linked, with a /dev/kvm of its own\n"
    "  doctor   say what this machine offers to it, and how PROGRAM is served\n"
    "\n"
    "`quire run` needs no root, no kernel module and no /dev/kvm. PROGRAM may be a script.\n"
    "--param sets a module parameter as modprobe would; the run's own processes may also read\n"
    "and write them in /sys/module/kvm/parameters. --stats and --trace write the counters and the\n"
    "events of the run's KVM when it ends, and at SIGUSR2. See quire(1).\n";

static int print_usage(void)
{
	fputs(usage, stdout);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";

	if (!strcmp(command, "run"))
		return command_run(argc - 1, argv + 1);
	if (!strcmp(command, "doctor"))
		return command_doctor(argc - 1, argv + 1);
	if (!strcmp(command, "version") || !strcmp(command, "--version")) {
		printf("quire %s\n", QUIRE_VERSION);
		return EXIT_SUCCESS;
	}
	if (!strcmp(command, "help") || !strcmp(command, "--help") || !strcmp(command, "-h"))
		return print_usage();
	if (*command)
		fprintf(stderr, "quire: no command '%s'\n", command);
	fputs(usage, stderr);
	return EXIT_USAGE;
}
