/* Calls that move bytes between two descriptors: none of KVM's files gives or takes any. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "boundary/rows.h"
#include "frontend/file/user_copy.h"

#define SPLICE_FLAGS 0xful

static bool is_kind(const struct object_call *call, enum file_kind kind)
{
	return file_ops_of(call->file)->kind == kind;
}

/* Does the other descriptor of a call exist? */
static bool is_open(unsigned long fd)
{
	return BOUNDARY_KERNEL(SYS_fcntl, fd, F_GETFD) >= 0;
}

/* A client's offset: 0, or -EFAULT. NULL is none. */
static long offset_check(unsigned long address)
{
	off_t offset;

	return address ? user_copy_in(&offset, address, sizeof(offset)) : 0;
}

static bool is_type(unsigned long fd, mode_t type)
{
	struct stat status;

	return !BOUNDARY_KERNEL(SYS_fstat, fd, (unsigned long)&status) &&
	       (status.st_mode & S_IFMT) == type;
}

/* sendfile(out, in, offset, count). */
long transfer_sendfile(const struct object_call *call)
{
	const unsigned long *args = call->call->args;

	if (!is_open(args[0]) || !is_open(args[1]))
		return -EBADF;
	if (offset_check(args[2]))
		return -EFAULT;
	if (call->fd != (int)args[1]) {
		if (is_kind(call, FILE_STATS))
			return -EBADF;
		return args[3] || !is_type(args[1], S_IFREG) ? -EINVAL : 0;
	}
	/* Only /dev/kvm and statistics have positions. */
	if (args[2] && !is_kind(call, FILE_KVM) && !is_kind(call, FILE_STATS))
		return -ESPIPE;
	return args[3] ? -EINVAL : 0;
}

static bool is_stats(unsigned long fd)
{
	struct file *file = file_get((int)fd);
	bool answer = file && file_ops_of(file)->kind == FILE_STATS;

	if (file)
		file_put(file);
	return answer;
}

/* splice(in, offset, out, offset, length, flags). */
long transfer_splice(const struct object_call *call)
{
	const unsigned long *args = call->call->args;

	if (!args[4])
		return 0;
	if (args[5] & ~SPLICE_FLAGS)
		return -EINVAL;
	if (!is_open(args[0]) || !is_open(args[2]))
		return -EBADF;
	if ((args[1] && is_type(args[0], S_IFIFO)) || (args[3] && is_type(args[2], S_IFIFO)))
		return -ESPIPE;
	if (offset_check(args[3]) || offset_check(args[1]))
		return -EFAULT;
	if (is_stats(args[2]))
		return -EBADF;
	return -EINVAL;
}

/* Of KVM's files a guest_memfd alone is regular. */
static bool is_regular(unsigned long fd)
{
	struct file *file = file_get((int)fd);
	bool answer = file ? file_ops_of(file)->kind == FILE_GMEM : is_type(fd, S_IFREG);

	if (file)
		file_put(file);
	return answer;
}

/*
 * Where does @fd live? Each kind of object has a file system of its own, but for those that are
 * anonymous inodes: what the machine's own files have is not told apart.
 */
static int home_of(unsigned long fd)
{
	struct file *file = file_get((int)fd);
	int home = 0;

	if (!file)
		return home;
	switch (file_ops_of(file)->kind) {
	case FILE_KVM:
		home = 1;
		break;
	case FILE_GMEM:
		home = 2;
		break;
	default:
		home = 3;
	}
	file_put(file);
	return home;
}

/* copy_file_range(in, offset, out, offset, length, flags). */
long transfer_copy(const struct object_call *call)
{
	const unsigned long *args = call->call->args;

	if (!is_open(args[0]) || !is_open(args[2]))
		return -EBADF;
	if (offset_check(args[1]) || offset_check(args[3]))
		return -EFAULT;
	if (args[5] || !is_regular(args[0]) || !is_regular(args[2]))
		return -EINVAL;
	return home_of(args[0]) == home_of(args[2]) ? -EINVAL : -EXDEV;
}

bool transfer_is_clone(unsigned int command)
{
	return command == FICLONE || command == FICLONERANGE || command == FIDEDUPERANGE;
}

/* The file that a FICLONE or FICLONERANGE copies from: its number, or -EFAULT. */
static long clone_source(const struct boundary_call *call, unsigned long *source)
{
	struct file_clone_range range;

	*source = call->args[2];
	if ((unsigned int)call->args[1] == FICLONE)
		return 0;
	if (user_copy_in(&range, call->args[2], sizeof(range)))
		return -EFAULT;
	*source = (unsigned long)range.src_fd;
	return 0;
}

/* An ioctl that shares blocks with another file, on one of ours. */
long transfer_clone(const struct object_call *call)
{
	unsigned long source;
	long error;

	if ((unsigned int)call->call->args[1] == FIDEDUPERANGE)
		return is_kind(call, FILE_GMEM) ? OBJECT_FORWARD
		       : user_copy_in(&(struct file_dedupe_range){0}, call->call->args[2],
				      sizeof(struct file_dedupe_range))
			   ? -EFAULT
			   : -EINVAL;
	error = clone_source(call->call, &source);
	if (error)
		return error;
	if (!is_open(source))
		return -EBADF;
	if (home_of(source) != home_of((unsigned long)call->fd))
		return -EXDEV;
	return is_kind(call, FILE_GMEM) ? -EOPNOTSUPP : -EINVAL;
}

/* The same on a file of the machine's: it shares nothing with one of ours. */
long transfer_clone_from(const struct boundary_call *call)
{
	unsigned long source;

	if ((unsigned int)call->args[1] == FIDEDUPERANGE || clone_source(call, &source))
		return OBJECT_FORWARD;
	return is_open(call->args[0]) && home_of(source) ? -EXDEV : OBJECT_FORWARD;
}
