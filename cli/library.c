/* Where the library and the engine lie: beside the command, in a build or installed. */
#include "cli/quire.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/types.h>
#include <unistd.h>

/* Without /proc (a plain chroot), by the path that this command was executed by. 0 or -errno. */
static int find_self(char *path)
{
	const char *executed = (const char *)getauxval(AT_EXECFN);
	ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);

	if (length < 0)
		return executed && realpath(executed, path) ? 0 : -ENOENT;
	path[length] = '\0';
	return 0;
}

/* @name in one of the folders where it may be. */
static int find(const char *name, char *path)
{
	static const char *const places[] = {
	    ".",
	    "../preload",
	    "../engine",
	    "../lib/quire",
	    "../lib64/quire",
	    "../lib/x86_64-linux-gnu/quire",
	};
	char self[PATH_MAX], candidate[PATH_MAX + 64];
	char *slash;
	int error = find_self(self);

	if (error)
		return error;
	slash = strrchr(self, '/');
	if (!slash)
		return -ENOENT;
	*slash = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		snprintf(candidate, sizeof(candidate), "%s/%s/%s", self, places[i], name);
		if (realpath(candidate, path))
			return 0;
	}
	return -ENOENT;
}

int find_library(char *path)
{
	return find("libquire_preload.so", path);
}

int find_engine(char *path)
{
	return find("quire-engine", path);
}
