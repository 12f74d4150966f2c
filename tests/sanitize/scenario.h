/* What the small VMMs share: scenarios by name, and how the program ends. */
#ifndef SANITIZE_SCENARIO_H
#define SANITIZE_SCENARIO_H

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/rules/client.h"

/* Without the mistake? */
static int is_mended;

/* The child does no harm: it ends with 0. */
static void child_wait(pid_t child)
{
	int status;

	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
}

/* SCENARIO, "faulty" or "mended", and how the program ends: a status, "exec" or "kill". */
static int scenario_main(char **argv, const struct check_test *scenarios, size_t count)
{
	if (!argv[1] || !argv[2] || !argv[3])
		return 2;
	is_mended = !strcmp(argv[2], "mended");
	for (size_t i = 0; i < count; i++)
		if (!strcmp(scenarios[i].name, argv[1]))
			scenarios[i].run();
	if (!strcmp(argv[3], "exec"))
		execl("/bin/true", "true", NULL);
	if (!strcmp(argv[3], "kill"))
		kill(getpid(), SIGKILL);
	_exit(atoi(argv[3]));
}

#endif
