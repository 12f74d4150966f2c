/*
 * system(3) and popen(3), which start the shell, and wait for it, by calls inside libc. Where the
 * client's environment has lost us, the shell is told to execute itself with our variables.
 */
#include "preload/shell.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "frontend/file/user_copy.h"
#include "preload/environment.h"
#include "preload/real.h"
#include "preload/wait.h"

static bool has_us(void)
{
	const char *preloads = getenv("LD_PRELOAD");

	return preloads && strstr(preloads, environment_library()) && getenv("QUIRE_RUN_DIR");
}

/* @text in single quotes, each of its own written '\''. */
static char *quote(char *to, const char *text)
{
	*to++ = '\'';
	for (; *text; text++) {
		if (*text == '\'') {
			memcpy(to, "'\\''", 4);
			to += 4;
		} else {
			*to++ = *text;
		}
	}
	*to++ = '\'';
	return to;
}

/* "A='b' C='d' exec /bin/sh -c 'command'", to be freed. NULL: pass the client's own. */
static char *command_with_us(const char *command)
{
	const char *const assignments[] = {environment_preload(), environment_run_directory()};
	char *made, *to;

	if (!environment_is_set() || has_us())
		return NULL;
	made = malloc(4 * (strlen(command) + strlen(assignments[0]) + strlen(assignments[1])) + 64);
	if (!made)
		return NULL;
	to = made;
	for (size_t i = 0; i < 2; i++) {
		size_t name = strcspn(assignments[i], "=") + 1;

		memcpy(to, assignments[i], name);
		to = quote(to + name, assignments[i] + name);
		*to++ = ' ';
	}
	to = stpcpy(to, "exec /bin/sh -c ");
	to = quote(to, command);
	*to = '\0';
	return made;
}

static bool is_string(const char *text)
{
	char part[4096];
	long got;

	do {
		got = user_peek_string(part, sizeof(part), (uintptr_t)text);
		text += got;
	} while (got == (long)sizeof(part) - 1);
	return got >= 0;
}

INTERPOSED int system(const char *command)
{
	char *made;
	int result, error;

	if (!command || client_call_active())
		return REAL(system)(command);
	if (!is_string(command))
		return (int)real_result(-EFAULT);
	made = command_with_us(command);
	result = REAL(system)(made ? made : command);
	wait_is_over();
	error = errno;
	free(made);
	errno = error;
	return result;
}

/*
 * glibc has the address of a stream's functions right behind its FILE, and those of a shell's
 * stream are popen()'s alone.
 */
static const void *functions_of(FILE *stream)
{
	return *(const void *const *)(stream + 1);
}

/* NULL: there was no shell's stream yet. */
static const void *shell_functions;

bool shell_has_stream(FILE *stream)
{
	const void *functions = __atomic_load_n(&shell_functions, __ATOMIC_RELAXED);

	return functions && functions_of(stream) == functions;
}

/* fclose() of such a stream waits for the shell, too (stdio.c). */
INTERPOSED int pclose(FILE *stream)
{
	int result = REAL(pclose)(stream);

	wait_is_over();
	return result;
}

INTERPOSED FILE *popen(const char *command, const char *mode)
{
	char *made;
	FILE *result;
	int error;

	if (client_call_active())
		return REAL(popen)(command, mode);
	if (!is_string(command) || !is_string(mode)) {
		errno = EFAULT;
		return NULL;
	}
	made = command_with_us(command);
	result = REAL(popen)(made ? made : command, mode);
	if (result)
		__atomic_store_n(&shell_functions, functions_of(result), __ATOMIC_RELAXED);
	error = errno;
	free(made);
	errno = error;
	return result;
}
