/* The functions behind the interposed ones. */
#include "preload/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "hosts/process/room.h"

struct lookup {
	const char *name;
	void *found;
};

static void run_lookup(void *opaque)
{
	struct lookup *lookup = opaque;

	lookup->found = dlsym(RTLD_NEXT, lookup->name);
}

void *real_lookup(void **slot, const char *name)
{
	struct lookup lookup = {.name = name};

	/* The first call may be a handler's, on a small stack. */
	process_with_room(run_lookup, &lookup);
	if (!lookup.found) {
		/* A libc without one of its own functions: nothing can be forwarded. */
		static const char text[] = "quire: libc lacks a function that is interposed\n";

		(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
		_exit(127);
	}
	__atomic_store_n(slot, lookup.found, __ATOMIC_RELAXED);
	return lookup.found;
}

long real_result(long result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}
