/* Running tests, each in a process of its own. */
#include "check.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77
#define LIMIT_SECONDS 60
#define POLL_MICROSECONDS 1000

void check_fail(const char *file, int line, const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s:%d: ", file, line);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	_exit(1);
}

void check_skip(const char *reason)
{
	printf("     (%s)\n", reason);
	fflush(stdout);
	_exit(SKIPPED);
}

static int wait_for(pid_t child)
{
	int status = 0;

	for (long polls = 0; polls < LIMIT_SECONDS * (1000000l / POLL_MICROSECONDS); polls++) {
		if (waitpid(child, &status, WNOHANG) == child)
			return status;
		usleep(POLL_MICROSECONDS);
	}
	fprintf(stderr, "no end within %d seconds\n", LIMIT_SECONDS);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return status;
}

/* The test's exit status: 0, SKIPPED, or anything else when it failed. */
static int run_one(const struct check_test *test)
{
	pid_t child;
	int status;

	fflush(NULL);
	child = fork();
	if (child < 0)
		return 1;
	if (child == 0) {
		test->run();
		fflush(NULL);
		_exit(0);
	}
	status = wait_for(child);
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "%s: ended by signal %d\n", test->name, WTERMSIG(status));
		return 1;
	}
	return WEXITSTATUS(status);
}

static int is_wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return 1;
	return argc < 2;
}

int check_main(int argc, char **argv, const struct check_test *tests, size_t count)
{
	int run = 0, failed = 0, skipped = 0;

	for (size_t i = 0; i < count; i++) {
		int status;

		if (!is_wanted(tests[i].name, argc, argv))
			continue;
		status = run_one(&tests[i]);
		run++;
		failed += status != 0 && status != SKIPPED;
		skipped += status == SKIPPED;
		printf("%s %s\n",
		       status == 0	   ? "pass"
		       : status == SKIPPED ? "skip"
					   : "FAIL",
		       tests[i].name);
	}
	printf("%d tests, %d failed, %d skipped\n", run, failed, skipped);
	if (!run || failed)
		return 1;
	return skipped == run ? SKIPPED : 0;
}
