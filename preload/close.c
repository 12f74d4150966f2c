/* Calls that close descriptors: the last reference to a file of ours may go with them. */
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "frontend/file.h"
#include "preload/real.h"

INTERPOSED int close(int fd)
{
	struct file *file;
	int result, error;

	if (client_call_active() || !file_any())
		return REAL(close)(fd);
	if (file_is_hidden(fd))
		return (int)real_result(-EBADF);
	client_call_begin();
	file = file_get(fd);
	if (!file) {
		client_call_end();
		return REAL(close)(fd);
	}
	result = REAL(close)(fd);
	error = errno;
	file_closed(file);
	file_put(file);
	errno = error;
	client_call_end();
	return result;
}

/* A descriptor is replaced: @replace makes the call. */
static int replace_descriptor(int from, int to, int (*replace)(int from, int to, int flags),
			      int flags)
{
	struct file *victim;
	int result, error;

	if (client_call_active() || !file_any() || from == to)
		return replace(from, to, flags);
	if (file_is_hidden(from))
		return (int)real_result(-EBADF);
	client_call_begin();
	if (file_is_hidden(to))
		file_hidden_move(to);
	victim = file_get(to);
	result = replace(from, to, flags);
	error = errno;
	if (victim && result >= 0)
		file_closed(victim);
	if (victim)
		file_put(victim);
	errno = error;
	client_call_end();
	return result;
}

static int real_dup2(int from, int to, int flags)
{
	(void)flags;
	return REAL(dup2)(from, to);
}

static int real_dup3(int from, int to, int flags)
{
	return REAL(dup3)(from, to, flags);
}

INTERPOSED int dup2(int from, int to)
{
	return replace_descriptor(from, to, real_dup2, 0);
}

INTERPOSED int dup3(int from, int to, int flags)
{
	return replace_descriptor(from, to, real_dup3, flags);
}

INTERPOSED int close_range(unsigned int first, unsigned int last, int flags)
{
	int result = 0, hidden;

	/* Ours are close-on-exec already; only a real close must go around them. */
	if (client_call_active() || !file_any() || (flags & (int)CLOSE_RANGE_CLOEXEC) ||
	    first > last || first > INT_MAX)
		return REAL(close_range)(first, last, flags);
	client_call_begin();
	while (!result && first <= last) {
		hidden = file_hidden_next((int)first);
		if (hidden < 0 || (unsigned int)hidden > last) {
			result = REAL(close_range)(first, last, flags);
			break;
		}
		if ((unsigned int)hidden > first)
			result = REAL(close_range)(first, (unsigned int)hidden - 1, flags);
		first = (unsigned int)hidden + 1;
	}
	file_collect();
	client_call_end();
	return result;
}

INTERPOSED void closefrom(int first)
{
	if (client_call_active() || !file_any())
		REAL(closefrom)(first);
	else
		close_range(first < 0 ? 0 : (unsigned int)first, UINT_MAX, 0);
}
