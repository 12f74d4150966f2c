/* fcntl and flock: the description's flags are the kernel's, what a memfd has beyond KVM's files is
 * not. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "boundary/rows.h"

#ifndef F_SETLEASE
#define F_SETLEASE 1024
#endif
/* O_LARGEFILE as the kernel counts it; libc says 0 on this machine. */
#define LARGE_FILE 0100000L

/* A device node keeps the flags it was opened with; of the others only guest_memfd is a large file.
 */
static long flags_of(const struct object_call *call)
{
	long flags = boundary_kernel(call->call);

	switch (file_ops_of(call->file)->kind) {
	case FILE_VM:
	case FILE_VCPU:
		return flags & ~LARGE_FILE;
	case FILE_STATS:
		return flags & ~(LARGE_FILE | O_ACCMODE);
	default:
		return flags;
	}
}

long flags_fcntl(const struct object_call *call)
{
	unsigned long argument = call->call->args[2];

	switch ((unsigned int)call->call->args[1]) {
	case F_GETFL:
		return flags_of(call);
	case F_SETFL:
		/* A memfd takes it. */
		return argument & O_DIRECT ? -EINVAL : OBJECT_FORWARD;
	case F_ADD_SEALS:
		return file_ops_of(call->file)->kind == FILE_STATS ? -EPERM : -EINVAL;
	case F_GET_SEALS:
	case F_SETLEASE:
		return -EINVAL;
	default:
		return OBJECT_FORWARD;
	}
}

/* Where the lock on a file of ours tells us when it goes, a client's own is granted for the asking.
 */
long flags_flock(const struct object_call *call)
{
	if (!file_uses_lock(call->file))
		return OBJECT_FORWARD;
	switch ((int)call->call->args[1] & ~LOCK_NB) {
	case LOCK_SH:
	case LOCK_EX:
	case LOCK_UN:
		return 0;
	default:
		return -EINVAL;
	}
}
