/* Pointers that the kernel follows before it asks the file, which then refuses the call. */
#include <errno.h>
#include <sys/stat.h>

#include "boundary/rows.h"
#include "frontend/user_copy.h"

/* What the call refuses, once its argument at @pointer, if any, could be read. */
static long refused_after(unsigned long pointer, size_t size_bytes)
{
	char copy[2 * sizeof(struct timespec)];

	return pointer && user_copy_in(copy, pointer, size_bytes) ? -EFAULT : -EINVAL;
}

long argument_times(const struct object_call *call)
{
	return refused_after(call->call->args[2], 2 * sizeof(struct timespec));
}

long argument_send_offset(const struct object_call *call)
{
	return refused_after(call->call->args[2], sizeof(off_t));
}

/* The other end is a pipe, which has no offset: only that of our end is followed. */
long argument_splice_offset(const struct object_call *call)
{
	const unsigned long *args = call->call->args;

	return refused_after(args[call->fd == (int)args[0] ? 1 : 3], sizeof(off_t));
}
