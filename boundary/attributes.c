/* Changing what an inode says of itself: KVM's files refuse, each in its way. */
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "boundary/newer_calls.h"
#include "boundary/rows.h"
#include "frontend/file/user_copy.h"

/* Newer than some libc's headers. */
#ifndef AT_HANDLE_FID
#define AT_HANDLE_FID 0x200
#endif

#define AT_FLAGS_OF_ATTRIBUTES ((unsigned long)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
#define FILE_ATTRIBUTES_BYTES 24 /* of the first struct file_attr */
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

	if (!path_is_itself(call->call, 1, 3) || (!args[1] && file_is_path(call->fd)))
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

	if (call->call->args[1] || file_is_path(call->fd))
		return OBJECT_FORWARD;
	if (call->call->args[2] && user_copy_in(times, call->call->args[2], sizeof(times)))
		return -EFAULT;
	return refusal(call);
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

/* What a call does to an extended attribute, and where it says so. */
struct attribute {
	bool reads;
	unsigned long name;
	unsigned long value, size_bytes; /* to be stored; of any size when none is */
};

/* What the kernel checks of a value before it looks at the file. */
static long value_check(const struct attribute *attribute)
{
	char first;

	if (attribute->size_bytes > XATTR_SIZE_MAX)
		return -E2BIG;
	return attribute->size_bytes && user_copy_in(&first, attribute->value, 1) ? -EFAULT : 0;
}

/*
 * A guest_memfd has no attributes. An anonymous inode and a device node are no regular files, and
 * have none of the user's. The node's others are the superuser's.
 */
static long attribute_refusal(const struct object_call *call, const struct attribute *attribute)
{
	static const char user[] = "user.";
	enum file_kind kind = file_ops_of(call->file)->kind;
	char prefix[sizeof(user)] = "";
	bool is_users;

	(void)user_copy_in(prefix, attribute->name, sizeof(user) - 1);
	is_users = !memcmp(prefix, user, sizeof(user) - 1);
	if (kind == FILE_GMEM || (kind != FILE_KVM && !is_users))
		return -EOPNOTSUPP;
	if (!is_users && memcmp(prefix, "trust", 5) != 0 && memcmp(prefix, "secur", 5) != 0)
		return -EOPNOTSUPP;
	return attribute->reads ? -ENODATA : -EPERM;
}

/* fsetxattr(fd, name, value, size, flags), fgetxattr(fd, name, ...), fremovexattr(fd, name). */
long attributes_extended(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	struct attribute attribute = {.name = args[1]};
	long error, nr = call->call->nr;

	if (nr == SYS_fsetxattr || nr == SYS_setxattr) {
		if (args[4] & ~XATTR_FLAGS)
			return -EINVAL;
		attribute.value = args[2];
		attribute.size_bytes = args[3];
	}
	attribute.reads = nr == SYS_fgetxattr || nr == SYS_getxattr;
	error = name_check(args[1]);
	if (!error)
		error = value_check(&attribute);
	return error ? error : attribute_refusal(call, &attribute);
}

/* The same with a path and flags before the name, and what is read or stored in a structure. */
long attributes_extended_at(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	struct {
		uint64_t value;
		uint32_t size_bytes, flags;
	} stored = {0};
	struct attribute attribute = {.name = args[3], .reads = call->call->nr == SYS_getxattrat};
	long error;

	if ((args[2] & ~AT_FLAGS_OF_ATTRIBUTES) || !path_is_itself(call->call, 1, 2))
		return OBJECT_FORWARD;
	if (call->call->nr == SYS_listxattrat)
		return 0;
	if (call->call->nr != SYS_removexattrat) {
		if (args[5] < sizeof(stored))
			return -EINVAL;
		if (user_copy_in(&stored, args[4], sizeof(stored)))
			return -EFAULT;
	}
	if (call->call->nr == SYS_setxattrat) {
		if (stored.flags & ~XATTR_FLAGS)
			return -EINVAL;
		attribute.value = stored.value;
		attribute.size_bytes = stored.size_bytes;
	}
	error = name_check(attribute.name);
	if (!error)
		error = value_check(&attribute);
	return error ? error : attribute_refusal(call, &attribute);
}

/* file_getattr and file_setattr(fd, path, attributes, size, flags): no file of ours has any. */
long attributes_file_at(const struct object_call *call)
{
	const unsigned long *args = call->call->args;
	uint64_t attributes[FILE_ATTRIBUTES_BYTES / sizeof(uint64_t)];

	if ((args[4] & ~AT_FLAGS_OF_ATTRIBUTES) || !path_is_itself(call->call, 1, 4))
		return OBJECT_FORWARD;
	if (args[3] < sizeof(attributes))
		return -EINVAL;
	if (call->call->nr == SYS_file_setattr &&
	    user_copy_in(attributes, args[2], sizeof(attributes)))
		return -EFAULT;
	return -EOPNOTSUPP;
}

/* name_to_handle_at(fd, path, handle, mount, flags): no file system of KVM's files can find one. */
long attributes_handle(const struct object_call *call)
{
	if (file_ops_of(call->file)->kind == FILE_KVM || !path_is_itself(call->call, 1, 4))
		return OBJECT_FORWARD;
	/* A handle that only tells files apart is made for each. */
	return call->call->args[4] & AT_HANDLE_FID ? OBJECT_FORWARD : -EOPNOTSUPP;
}

/* There are none to list. */
long attributes_none(const struct object_call *call)
{
	(void)call;
	return 0;
}
