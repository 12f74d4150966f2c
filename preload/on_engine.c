/* A client's exec of a program that nothing can be preloaded into: it is started on the engine. */
#include "preload/on_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "frontend/file/user_copy.h"
#include "frontend/param/params.h"
#include "preload/environment.h"
#include "preload/launch.h"

struct room {
	struct launch launch;
	struct launch_strings strings;
	char engine[PATH_MAX];
	char *const *argv, *const *environment; /* the client's */
	size_t argument_count, variable_count;
	const char *vectors[];
};

/* Pointers in @list, without its end; SIZE_MAX when it cannot be read. */
static size_t list_count(char *const list[])
{
	const char *entry;
	size_t count = 0;

	for (; list; count++) {
		if (user_peek(&entry, (uintptr_t)&list[count], sizeof(entry)))
			return SIZE_MAX;
		if (!entry)
			break;
	}
	return count;
}

size_t on_engine_room(char *const argv[], char *const environment[])
{
	size_t arguments = list_count(argv), variables = list_count(environment);

	if (arguments == SIZE_MAX || variables == SIZE_MAX)
		return 0;
	return sizeof(struct room) +
	       (arguments + variables + LAUNCH_WORDS_MAX + LAUNCH_STRINGS + 2) * sizeof(char *);
}

static void vectors_write(struct room *room, struct on_engine *start)
{
	const struct launch *launch = &room->launch;
	size_t skipped = launch->word_count && room->argument_count ? 1 : 0;
	size_t rest = room->argument_count - skipped;
	const char **argv = room->vectors;
	const char **environment = argv + launch->word_count + rest + 1;

	memcpy(argv, launch->words, launch->word_count * sizeof(*argv));
	memcpy(argv + launch->word_count, room->argv + skipped, rest * sizeof(*argv));
	argv[launch->word_count + rest] = NULL;
	memcpy(environment, room->strings.list, sizeof(room->strings.list));
	memcpy(environment + LAUNCH_STRINGS, room->environment,
	       room->variable_count * sizeof(*environment));
	environment[LAUNCH_STRINGS + room->variable_count] = NULL;
	start->argv = (char *const *)argv;
	start->environment = (char *const *)environment;
}

/*
 * Where the engine is: in the run's directory, or beside the library for a user that may not look
 * there. 0 or -ENOEXEC.
 */
static int engine_find(char engine[PATH_MAX])
{
	static const char *const beside[] = {"quire-engine", "../engine/quire-engine"};
	const char *directory = environment_run_directory() + strlen(PARAMS_RUN_DIR "=");
	const char *library = environment_library();
	size_t folder = (size_t)(strrchr(library, '/') + 1 - library);

	if (strlen(directory) + sizeof("/" ENGINE_LINK) > PATH_MAX || folder + 32 > PATH_MAX)
		return -ENOEXEC;
	strcpy(engine, directory);
	strcat(engine, "/" ENGINE_LINK);
	for (size_t i = 0; access(engine, X_OK); i++) {
		if (i == sizeof(beside) / sizeof(beside[0]))
			return -ENOEXEC;
		memcpy(engine, library, folder);
		strcpy(engine + folder, beside[i]);
	}
	return 0;
}

/*
 * A path that is a descriptor of ours, which may be closed on exec: the new program is given one
 * that is not. 0 or -errno.
 */
static int resolve_descriptor(struct launch *launch, const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY), error;

	if (fd < 0)
		return -errno;
	error = launch_resolve_fd(launch, fd, path);
	/* Of a script there is the path alone. */
	if (error || launch->fd < 0)
		close(fd);
	return error;
}

static bool is_descriptor(const char *path)
{
	static const char folder[] = "/proc/self/fd/";

	if (strncmp(path, folder, sizeof(folder) - 1))
		return false;
	path += sizeof(folder) - 1;
	return *path && !path[strspn(path, "0123456789")];
}

int on_engine_prepare(struct on_engine *start, const char *path, void *memory)
{
	const char *directory = environment_run_directory() + strlen(PARAMS_RUN_DIR "=");
	struct room *room = memory;
	struct launch_place place = {room->engine, directory, false, false};
	int error = is_descriptor(path) && !start->by_path ? resolve_descriptor(&room->launch, path)
							   : launch_resolve(&room->launch, path);

	start->opened = error ? -1 : room->launch.fd;
	if (error)
		return error;
	if (!environment_is_set() || !strchr(environment_library(), '/') ||
	    engine_find(room->engine))
		return -ENOEXEC;
	launch_write(&room->strings, &room->launch, &place);
	room->argv = start->argv;
	room->environment = start->environment;
	room->argument_count = list_count(start->argv);
	room->variable_count = list_count(start->environment);
	start->engine = room->engine;
	vectors_write(room, start);
	return 0;
}
