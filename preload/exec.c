/*
 * Calls that start a program. One that we cannot be loaded into would find the machine's own
 * /dev/kvm without anybody noticing, so it is refused, loudly. The two variables that bring us
 * there are put back where a client passes an environment without them.
 *
 * All of this may run between vfork() and exec: no allocation, no locks.
 */
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "frontend/file/user_copy.h"
#include "frontend/report/report.h"
#include "frontend/run/signal_actions.h"
#include "preload/coverage.h"
#include "preload/environment.h"
#include "preload/on_engine.h"
#include "preload/program.h"
#include "preload/real.h"

static bool is_refused(enum program_kind kind)
{
	return kind == PROGRAM_FOREIGN;
}

/* Has the program to be started on the engine? */
#define ON_ENGINE 1
static void complain(const char *path, enum program_kind kind)
{
	char text[PATH_MAX + 256];
	int length = snprintf(text, sizeof(text), "quire: %s %s\n", path, program_reason(kind));

	if (length > (int)sizeof(text) - 1)
		length = (int)sizeof(text) - 1;
	(void)!write(STDERR_FILENO, text, (size_t)length);
}

/* 0, ON_ENGINE, or -ENOEXEC with the reason told. The files are looked at with libc's own calls. */
static int check(const char *path)
{
	enum program_kind kind;

	client_call_depth++;
	kind = program_check(path);
	if (is_refused(kind))
		complain(path, kind);
	client_call_depth--;
	return is_refused(kind) ? -ENOEXEC : program_wants_engine(kind) ? ON_ENGINE : 0;
}

static int prepare(struct on_engine *start, const char *path, void *room)
{
	int error;

	client_call_depth++;
	error = on_engine_prepare(start, path, room);
	if (error == -ENOEXEC)
		complain(path, PROGRAM_STATIC);
	client_call_depth--;
	return error;
}

/* What to execute for @path; on the caller's stack, for it must live until the program starts. */
#define START_ON_ENGINE(start, path)                                                     \
	({                                                                               \
		size_t room_bytes = on_engine_room((start)->argv, (start)->environment); \
		room_bytes ? prepare(start, path, alloca(room_bytes)) : -EFAULT;         \
	})

static bool names(const char *assignment, const char *variable)
{
	size_t length = strcspn(variable, "=");

	return !strncmp(assignment, variable, length) && assignment[length] == '=';
}

static bool has_us(const char *preloads)
{
	return strstr(preloads, environment_library()) != NULL;
}

/* Enough of an assignment to tell whose it is: both of our names are shorter. */
#define HEAD_BYTES 16
#define PAGE_SHIFT 12
#define NO_PAGE UINT64_MAX

/* Length of the client's string at @text, or -EFAULT. */
static long string_length(const char *text)
{
	char part[256];
	long length = 0, got;

	do {
		got = user_peek_string(part, sizeof(part), (uintptr_t)text + (uintptr_t)length);
		if (got < 0)
			return got;
		length += got;
	} while ((size_t)got == sizeof(part) - 1);
	return length;
}

/*
 * What with_us() needs for an environment, by a look that survives bad pointers: room for a copy
 * with ours, in pointers, and for LD_PRELOAD. No room: pass the client's own, for the kernel to
 * answer (or because we are not in a run).
 */
struct environment_needs {
	size_t pointers;
	size_t preload_bytes;
};

/*
 * user_peek() of a short piece. @page is one that was just found readable, by its number: strings
 * and pointers of an environment are neighbours, and each question of the kernel costs a call.
 */
static int peek_near(uint64_t *page, void *dst, const void *src, size_t size_bytes)
{
	uintptr_t start = (uintptr_t)src, last = start + size_bytes - 1;

	if (start >> PAGE_SHIFT == *page && last >> PAGE_SHIFT == *page)
		return user_copy_in(dst, start, size_bytes);
	*page = NO_PAGE;
	if (user_peek(dst, start, size_bytes))
		return -EFAULT;
	*page = last >> PAGE_SHIFT;
	return 0;
}

/* The first bytes of the string at @text, cut to HEAD_BYTES - 1, or -EFAULT. */
static int peek_head(uint64_t *page, char head[HEAD_BYTES], const char *text)
{
	uintptr_t at = (uintptr_t)text;

	memset(head, 0, HEAD_BYTES);
	/* Bytes past the end of the string may be in a page that is not there. */
	if ((at + HEAD_BYTES - 2) >> PAGE_SHIFT != at >> PAGE_SHIFT)
		return user_peek_string(head, HEAD_BYTES, at) < 0 ? -EFAULT : 0;
	return peek_near(page, head, text, HEAD_BYTES - 1);
}

static struct environment_needs needs_of(char *const environment[])
{
	uint64_t pointers_page = NO_PAGE, texts_page = NO_PAGE;
	struct environment_needs needs = {ENVIRONMENT_VARIABLES + 1,
					  strlen(environment_preload()) + 2};
	const struct environment_needs none = {0, 0};
	char head[HEAD_BYTES];

	if (!environment_is_set())
		return none;
	for (size_t i = 0; environment; i++) {
		const char *entry;
		long length;

		if (peek_near(&pointers_page, &entry, &environment[i], sizeof(entry)))
			return none;
		if (!entry)
			break;
		if (peek_head(&texts_page, head, entry))
			return none;
		needs.pointers++;
		if (!names(head, "LD_PRELOAD="))
			continue;
		length = string_length(entry);
		if (length < 0)
			return none;
		needs.preload_bytes += (size_t)length + 1;
	}
	return needs;
}

/*
 * Copy @environment with our variables in it. A client's own LD_PRELOAD that lacks us is left
 * behind ours: @joined has room for both.
 */
static char *const *with_us(char *const environment[], char **copy, char *joined)
{
	size_t count = 0;

	strcpy(joined, environment_preload());
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

/* On the caller's stack, for it must live until the program is started. */
#define WITH_US(environment)                                                                 \
	({                                                                                   \
		struct environment_needs needs = needs_of(environment);                      \
		char **copy_room = alloca(needs.pointers * sizeof(char *) + 1);              \
		char *joined_room = alloca(needs.preload_bytes + 1);                         \
		needs.pointers ? with_us(environment, copy_room, joined_room) : environment; \
	})

/* execvp() and its kin look at the name themselves. */
static bool is_name(const char *file)
{
	return string_length(file) >= 0;
}

/* posix_spawn() counts the arguments itself. */
static bool is_list(char *const list[])
{
	const char *entry = NULL;

	for (size_t i = 0; !i || entry; i++)
		if (user_peek(&entry, (uintptr_t)&list[i], sizeof(entry)))
			return false;
	return true;
}

/* This program is about to end: what it leaves to the next one. */
static void leave(void)
{
	report_last(REPORT_PROGRAM_ENDS);
	coverage_keep();
	signal_exec_begin();
}

/* Only a call that failed comes back. */
static int executed(int result)
{
	int error = errno;

	signal_exec_failed();
	errno = error;
	return result;
}

static int execute_on_engine(const char *path, char *const argv[], char *const environment[])
{
	struct on_engine start = {.argv = argv, .environment = environment, .opened = -1};
	int error = START_ON_ENGINE(&start, path);

	if (!error) {
		leave();
		REAL(execve)(start.engine, start.argv, start.environment);
		error = -errno;
		executed(-1);
	}
	if (start.opened >= 0)
		REAL(close)(start.opened);
	return (int)real_result(error);
}

INTERPOSED int execve(const char *path, char *const argv[], char *const environment[])
{
	int error = check(path);

	if (error == ON_ENGINE)
		return execute_on_engine(path, argv, environment);
	if (error)
		return (int)real_result(error);
	leave();
	return executed(REAL(execve)(path, argv, WITH_US(environment)));
}

INTERPOSED int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

INTERPOSED int execvpe(const char *file, char *const argv[], char *const environment[])
{
	char path[PATH_MAX];

	if (!is_name(file))
		return (int)real_result(-EFAULT);
	if (!program_find(file, getenv("PATH"), path, sizeof(path))) {
		int error = check(path);

		if (error == ON_ENGINE)
			return execute_on_engine(path, argv, environment);
		if (error)
			return (int)real_result(error);
	}
	leave();
	return executed(REAL(execvpe)(file, argv, WITH_US(environment)));
}

INTERPOSED int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

INTERPOSED int fexecve(int fd, char *const argv[], char *const environment[])
{
	char path[32];
	int error;

	/* Refused by libc, but no environment at all is one to us. */
	if (!environment)
		return REAL(fexecve)(fd, argv, environment);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	error = check(path);
	if (error == ON_ENGINE)
		return execute_on_engine(path, argv, environment);
	if (error)
		return (int)real_result(error);
	leave();
	return executed(REAL(fexecve)(fd, argv, WITH_US(environment)));
}

/* What a directory and a path name, as one path that check() can open. */
static int join_place(char text[PATH_MAX], int directory, const char *path)
{
	char tail[PATH_MAX - 32];
	long length = user_peek_string(tail, sizeof(tail), (uintptr_t)path);

	if (length < 0)
		return (int)length;
	if ((size_t)length == sizeof(tail) - 1)
		return -ENAMETOOLONG;
	if (directory == AT_FDCWD || *tail == '/')
		strcpy(text, tail);
	else
		snprintf(text, PATH_MAX, "/proc/self/fd/%d%s%s", directory, *tail ? "/" : "", tail);
	return 0;
}

INTERPOSED int execveat(int directory, const char *path, char *const argv[],
			char *const environment[], int flags)
{
	char place[PATH_MAX];
	int error = join_place(place, directory, path);

	if (!error)
		error = check(place);
	if (error == ON_ENGINE)
		return execute_on_engine(place, argv, environment);
	if (error)
		return (int)real_result(error);
	leave();
	return executed(REAL(execveat)(directory, path, argv, WITH_US(environment), flags));
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
	/* A descriptor in the path is looked at after the actions. */
	struct on_engine start = {.argv = argv, .environment = environment, .by_path = true};
	int error = is_list(argv) ? check(path) : -EFAULT;

	if (error == ON_ENGINE) {
		error = START_ON_ENGINE(&start, path);
		if (!error)
			return REAL(posix_spawn)(pid, start.engine, actions, attributes, start.argv,
						 start.environment);
	}
	if (error)
		return -error;
	return REAL(posix_spawn)(pid, path, actions, attributes, argv, WITH_US(environment));
}

INTERPOSED int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			    const posix_spawnattr_t *attributes, char *const argv[],
			    char *const environment[])
{
	char path[PATH_MAX];

	if (!is_name(file) || !is_list(argv))
		return EFAULT;
	if (!program_find(file, getenv("PATH"), path, sizeof(path))) {
		int error = check(path);

		if (error == ON_ENGINE)
			return posix_spawn(pid, path, actions, attributes, argv, environment);
		if (error)
			return -error;
	}
	return REAL(posix_spawnp)(pid, file, actions, attributes, argv, WITH_US(environment));
}
