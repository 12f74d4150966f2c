/* Calls that move bytes between two descriptors: none of KVM's files gives or takes any. */
#include <errno.h>
#include <fcntl.h>
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

/* sendfile(out, in, offset, count). */
long transfer_sendfile(const struct object_call *call)
{
	const unsigned long *args = call->call->args;

	if (!is_open(args[0]) || !is_open(args[1]))
		return -EBADF;
	if (offset_check(args[2]))
		return -EFAULT;
	if (call->fd != (int)args[1])
		return is_kind(call, FILE_STATS) ? -EBADF : -EINVAL;
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

static bool is_type(unsigned long fd, mode_t type)
{
	struct stat status;

	return !BOUNDARY_KERNEL(SYS_fstat, fd, (unsigned long)&status) &&
	       (status.st_mode & S_IFMT) == type;
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

/* A pair with /dev/kvm or another file that is not regular has no bytes to copy. */
static bool is_copyable(unsigned long fd)
{
	struct file *file = file_get((int)fd);
	bool answer = file ? file_ops_of(file)->kind != FILE_KVM : is_type(fd, S_IFREG);

	if (file)
		file_put(file);
	return answer;
}

/* Where does @fd live? Each guest_memfd, and all other objects, have a file system of their own. */
static int home_of(unsigned long fd)
{
	struct file *file = file_get((int)fd);
	int home = !file ? 0 : file_ops_of(file)->kind == FILE_GMEM ? 1 : 2;

	if (file)
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
	if (args[5] || !is_copyable(args[0]) || !is_copyable(args[2]))
		return -EINVAL;
	if (is_stats(args[2]))
		return -EBADF;
	return home_of(args[0]) == home_of(args[2]) ? -EINVAL : -EXDEV;
}
