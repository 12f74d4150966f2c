/* The functions behind the interposed ones. */
#include "preload/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

void *real_lookup(void **slot, const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (!found) {
		/* A libc without one of its own functions: nothing can be forwarded. */
		static const char text[] = "quire: libc lacks a function that is interposed\n";

		(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
		_exit(127);
	}
	__atomic_store_n(slot, found, __ATOMIC_RELAXED);
	return found;
}

long real_result(long result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}
