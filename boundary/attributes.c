/* Changing what an inode says of itself: KVM's files refuse, each in its way. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "boundary/rows.h"
#include "frontend/file/user_copy.h"

#define XATTR_NAME_BYTES 256
#define XATTR_FLAGS 3ul

/* An anonymous inode has no attributes to set; a guest_memfd refuses each; a device node takes it.
 */
static long refusal(const struct object_call *call)
{
	switch (file_ops_of(call->file)->kind) {
	case FILE_KVM:
		return OBJECT_FORWARD;
	case FILE_GMEM:
		return -EINVAL;
	default:
		return -EOPNOTSUPP;
	}
}

bool path_is_itself(const struct boundary_call *call, unsigned int path, unsigned int flags)
{
	char first;

	if (!call->args[path])
		return call->nr == SYS_utimensat || call->nr == SYS_futimesat ||
		       (call->args[flags] & AT_EMPTY_PATH);
	return (call->args[flags] & AT_EMPTY_PATH) && !user_copy_in(&first, call->args[path], 1) &&
	       !first;
}

long attributes_change(const struct object_call *call)
{
	return refusal(call);
}

/* fchownat(fd, path, user, group, flags). */
long attributes_chownat(const struct object_call *call)
{
	return path_is_itself(call->call, 1, 4) ? refusal(call) : OBJECT_FORWARD;
}

/* fchmodat2(fd, path, mode, flags). */
long attributes_chmodat(const struct object_call *call)
{
	return path_is_itself(call->call, 1, 3) ? refusal(call) : OBJECT_FORWARD;
}

/* utimensat(fd, path, times, flags): two times that are left alone are not looked at further. */
long attributes_times(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	struct timespec times[2];

	if (!path_is_itself(call->call, 1, 3))
		return OBJECT_FORWARD;
	if (args[2] && user_copy_in(times, args[2], sizeof(times)))
		return -EFAULT;
	if (args[2] && times[0].tv_nsec == UTIME_OMIT && times[1].tv_nsec == UTIME_OMIT)
		return 0;
	return refusal(call);
}

/* futimesat(fd, NULL, times). */
long attributes_old_times(const struct object_call *call)
{
	struct timeval times[2];

	if (call->call->args[1])
		return OBJECT_FORWARD;
	if (call->call->args[2] && user_copy_in(times, call->call->args[2], sizeof(times)))
		return -EFAULT;
	return refusal(call);
}

/* ftruncate(fd, length). */
long attributes_truncate(const struct object_call *call)
{
	off_t length = (off_t)call->call->args[1];
	enum file_kind kind = file_ops_of(call->file)->kind;

	/* An anonymous inode is a regular file inside, without the flag of large ones. */
	if ((kind == FILE_VM || kind == FILE_VCPU) && length >= 0 && length <= INT32_MAX)
		return -EOPNOTSUPP;
	/* By a path it does not matter how a description is open. */
	if (kind == FILE_STATS && call->call->nr == SYS_truncate && length >= 0)
		return -EOPNOTSUPP;
	return -EINVAL;
}

/* The name of an extended attribute, as the kernel reads it: 0 or -errno. */
static long name_check(unsigned long address)
{
	char letter = 1;
	size_t length = 0;

	for (; length < XATTR_NAME_BYTES; length++) {
		if (user_copy_in(&letter, address + length, 1))
			return -EFAULT;
		if (!letter)
			break;
	}
	return length == 0 || length == XATTR_NAME_BYTES ? -ERANGE : 0;
}

/* fsetxattr(fd, name, value, size, flags), fgetxattr(fd, name, ...), fremovexattr(fd, name). */
long attributes_extended(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	long error, nr = call->call->nr;

	if ((nr == SYS_fsetxattr || nr == SYS_setxattr) && (args[4] & ~XATTR_FLAGS))
		return -EINVAL;
	error = name_check(args[1]);
	if (error)
		return error;
	if (file_ops_of(call->file)->kind != FILE_KVM)
		return -EOPNOTSUPP;
	return nr == SYS_fgetxattr || nr == SYS_getxattr ? -ENODATA : -EPERM;
}

/* name_to_handle_at(fd, path, handle, mount, flags): no file system of KVM's files can find one. */
long attributes_handle(const struct object_call *call)
{
	if (file_ops_of(call->file)->kind == FILE_KVM || !path_is_itself(call->call, 1, 4))
		return OBJECT_FORWARD;
	return -EOPNOTSUPP;
}

/* There are none to list. */
long attributes_none(const struct object_call *call)
{
	(void)call;
	return 0;
}
