/* The functions behind the ones that serve the client: of the engine's own libc. */
#include "preload/real.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#define FUNCTION(name)                         \
	{                                      \
#name, (void *)(uintptr_t)name \
	}

static const struct {
	const char *name;
	void *function;
} functions[] = {
    FUNCTION(brk),	     FUNCTION(close),
    FUNCTION(close_range),   FUNCTION(closefrom),
    FUNCTION(dup),	     FUNCTION(dup2),
    FUNCTION(dup3),	     FUNCTION(madvise),
    FUNCTION(mmap),	     FUNCTION(mprotect),
    FUNCTION(mremap),	     FUNCTION(munmap),
    FUNCTION(pkey_mprotect), FUNCTION(remap_file_pages),
    FUNCTION(sbrk),	     FUNCTION(shmat),
    FUNCTION(shmdt),
};

void *real_lookup(void **slot, const char *name)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		if (strcmp(functions[i].name, name))
			continue;
		__atomic_store_n(slot, functions[i].function, __ATOMIC_RELAXED);
		return functions[i].function;
	}
	dprintf(STDERR_FILENO, "quire: the engine has no %s()\n", name);
	_exit(127);
}

long real_result(long result)
{
	if (result >= 0)
		return result;
	errno = (int)-result;
	return -1;
}
