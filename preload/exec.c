/*
 * Calls that start a program. One that we cannot be loaded into would find the machine's own
 * /dev/kvm without anybody noticing, so it is refused, loudly. The two variables that bring us
 * there are put back where a client passes an environment without them.
 *
 * All of this may run between vfork() and exec: no allocation, no locks.
 */
#include <alloca.h>
#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/report.h"
#include "preload/environment.h"
#include "preload/program.h"
#include "preload/real.h"

static bool is_refused(enum program_kind kind)
{
	return kind == PROGRAM_STATIC || kind == PROGRAM_FOREIGN;
}

static void complain(const char *path, enum program_kind kind)
{
	char text[PATH_MAX + 256];
	int length = snprintf(text, sizeof(text), "quire: %s %s\n", path, program_reason(kind));

	if (length > (int)sizeof(text) - 1)
		length = (int)sizeof(text) - 1;
	(void)!write(STDERR_FILENO, text, (size_t)length);
}

/* 0, or -ENOEXEC with the reason told. The files are looked at with libc's own calls. */
static int check(const char *path)
{
	enum program_kind kind;

	client_call_depth++;
	kind = program_check(path);
	if (is_refused(kind))
		complain(path, kind);
	client_call_depth--;
	return is_refused(kind) ? -ENOEXEC : 0;
}

static size_t count_of(char *const list[])
{
	size_t count = 0;

	while (list && list[count])
		count++;
	return count;
}

static bool names(const char *assignment, const char *variable)
{
	size_t length = strcspn(variable, "=");

	return !strncmp(assignment, variable, length) && assignment[length] == '=';
}

static bool has_us(const char *preloads)
{
	return strstr(preloads, environment_library()) != NULL;
}

/* Room that with_us() needs for @environment, in pointers. */
#define ENVIRONMENT_ROOM(environment) (count_of(environment) + ENVIRONMENT_VARIABLES + 1)

/*
 * Copy @environment with our variables in it. A client's own LD_PRELOAD that lacks us is left
 * behind ours: @joined has room for both.
 */
static char *const *with_us(char *const environment[], char **copy, char *joined)
{
	size_t count = 0;

	if (!environment_is_set())
		return environment;
	for (size_t i = 0; environment && environment[i]; i++) {
		char *entry = environment[i];

		if (names(entry, "QUIRE_RUN_DIR="))
			continue;
		if (names(entry, "LD_PRELOAD=")) {
			if (has_us(entry)) {
				strcpy(joined, entry);
				continue;
			}
			strcat(strcat(joined, " "), entry + strlen("LD_PRELOAD="));
			continue;
		}
		copy[count++] = entry;
	}
	copy[count++] = joined;
	copy[count++] = environment_run_directory();
	copy[count] = NULL;
	return copy;
}

static size_t joined_bytes(char *const environment[])
{
	size_t bytes = strlen(environment_preload()) + 2;

	for (size_t i = 0; environment && environment[i]; i++)
		if (names(environment[i], "LD_PRELOAD="))
			bytes += strlen(environment[i]) + 1;
	return bytes;
}

/* On the caller's stack, for it must live until the program is started. */
#define WITH_US(environment)                                                               \
	({                                                                                 \
		char **copy_room = alloca(ENVIRONMENT_ROOM(environment) * sizeof(char *)); \
		char *joined_room = alloca(joined_bytes(environment));                     \
		strcpy(joined_room, environment_preload());                                \
		with_us(environment, copy_room, joined_room);                              \
	})

INTERPOSED int execve(const char *path, char *const argv[], char *const environment[])
{
	int error = check(path);

	if (error)
		return (int)real_result(error);
	report_last();
	return REAL(execve)(path, argv, WITH_US(environment));
}

INTERPOSED int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

INTERPOSED int execvpe(const char *file, char *const argv[], char *const environment[])
{
	char path[PATH_MAX];

	if (!program_find(file, getenv("PATH"), path, sizeof(path))) {
		int error = check(path);

		if (error)
			return (int)real_result(error);
	}
	report_last();
	return REAL(execvpe)(file, argv, WITH_US(environment));
}

INTERPOSED int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

INTERPOSED int fexecve(int fd, char *const argv[], char *const environment[])
{
	char path[32];
	int error;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	error = check(path);
	if (error)
		return (int)real_result(error);
	report_last();
	return REAL(fexecve)(fd, argv, WITH_US(environment));
}

/* The variadic calls' arguments as a vector, on the caller's stack. */
#define COLLECT_ARGUMENTS(first, argv)                                \
	do {                                                          \
		size_t argument_count = 1;                            \
		va_start(arguments, first);                           \
		while (va_arg(arguments, char *))                     \
			argument_count++;                             \
		va_end(arguments);                                    \
		argv = alloca((argument_count + 1) * sizeof(char *)); \
		argv[0] = (char *)(uintptr_t)first;                   \
		va_start(arguments, first);                           \
		for (size_t i = 1; i <= argument_count; i++)          \
			argv[i] = va_arg(arguments, char *);          \
	} while (0)

INTERPOSED int execl(const char *path, const char *first, ...)
{
	va_list arguments;
	char **argv;

	COLLECT_ARGUMENTS(first, argv);
	va_end(arguments);
	return execve(path, argv, environ);
}

INTERPOSED int execlp(const char *file, const char *first, ...)
{
	va_list arguments;
	char **argv;

	COLLECT_ARGUMENTS(first, argv);
	va_end(arguments);
	return execvpe(file, argv, environ);
}

INTERPOSED int execle(const char *path, const char *first, ...)
{
	char *const *environment;
	va_list arguments;
	char **argv;

	COLLECT_ARGUMENTS(first, argv);
	environment = va_arg(arguments, char *const *);
	va_end(arguments);
	return execve(path, argv, environment);
}

INTERPOSED int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
			   const posix_spawnattr_t *attributes, char *const argv[],
			   char *const environment[])
{
	int error = check(path);

	if (error)
		return -error;
	return REAL(posix_spawn)(pid, path, actions, attributes, argv, WITH_US(environment));
}

INTERPOSED int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			    const posix_spawnattr_t *attributes, char *const argv[],
			    char *const environment[])
{
	char path[PATH_MAX];

	if (!program_find(file, getenv("PATH"), path, sizeof(path)) && check(path))
		return ENOEXEC;
	return REAL(posix_spawnp)(pid, file, actions, attributes, argv, WITH_US(environment));
}
