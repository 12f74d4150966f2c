/* Calls that close descriptors: the last reference to a file of ours may go with them. */
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "frontend/file/file.h"
#include "frontend/file/numbers.h"
#include "hosts/process/room.h"
#include "preload/real.h"

/* Close @fd, which is nothing that we know from then on. */
static int really_close(int fd)
{
	int result = REAL(close)(fd);

	numbers_changed(fd);
	return result;
}

static void run_closed(void *opaque)
{
	const struct file_ending *ending = opaque;

	if (ending->is_one)
		file_closed(ending);
	else
		file_closed_other(ending);
}

/* After the call. errno is kept. */
static void closed(struct file_ending *ending)
{
	int error = errno;

	process_with_room(run_closed, ending);
	errno = error;
}

INTERPOSED int close(int fd)
{
	struct file_ending ending;
	int result;

	if (client_call_active())
		return REAL(close)(fd);
	if (!file_any() && !file_hidden_any())
		return really_close(fd);
	if (file_is_hidden(fd))
		return (int)real_result(-EBADF);
	client_call_begin();
	if (file_ending_one(fd, &ending)) {
		result = really_close(fd);
	} else {
		/* The client's signals are let in: the kernel may wait. */
		client_call_end();
		result = really_close(fd);
		if (!file_may_have_ended())
			return result;
		client_call_begin();
	}
	closed(&ending);
	client_call_end();
	return result;
}

/* A descriptor is replaced: @replace makes the call. */
static int replace_descriptor(int from, int to, int (*replace)(int from, int to, int flags),
			      int flags)
{
	struct file_ending ending;
	int result;

	if (client_call_active() || from == to)
		return replace(from, to, flags);
	if (!file_any() && !file_hidden_any()) {
		result = replace(from, to, flags);
		numbers_changed(to);
		return result;
	}
	if (file_is_hidden(from))
		return (int)real_result(-EBADF);
	client_call_begin();
	if (file_is_hidden(to))
		file_hidden_move(to);
	(void)file_ending_one(to, &ending);
	result = replace(from, to, flags);
	numbers_changed(to);
	if (result >= 0)
		closed(&ending);
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

/* A new number, which may have been something else: a duplicate is no object until asked for. */
INTERPOSED int dup(int from)
{
	int result = REAL(dup)(from);

	if (result >= 0 && !client_call_active())
		numbers_changed(result);
	return result;
}

INTERPOSED int close_range(unsigned int first, unsigned int last, int flags)
{
	const unsigned int from = first;
	int result = 0, hidden;
	struct file_ending ending;

	/* Ours are close-on-exec already; only a real close must go around them. */
	if (client_call_active() || (flags & (int)CLOSE_RANGE_CLOEXEC) || first > last ||
	    first > INT_MAX)
		return REAL(close_range)(first, last, flags);
	if (!file_any() && !file_hidden_any()) {
		result = REAL(close_range)(first, last, flags);
		numbers_changed_range(first, last);
		return result;
	}
	client_call_begin();
	ending = file_ending();
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
	numbers_changed_range(from, last);
	file_collect(&ending);
	client_call_end();
	return result;
}

INTERPOSED void closefrom(int first)
{
	if (client_call_active())
		REAL(closefrom)(first);
	else
		close_range(first < 0 ? 0 : (unsigned int)first, UINT_MAX, 0);
}
