/* ioctl and fallocate: the two calls that an object performs itself. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "boundary/node.h"
#include "boundary/rows.h"
#include "frontend/param/params.h"

/* What the kernel answers before it asks the file: it does so for the inert descriptor, too. */
static bool is_kernels(unsigned int command)
{
	switch (command) {
	case FIOCLEX:
	case FIONCLEX:
	case FIONBIO:
	case FIOASYNC:
	case FIGETBSZ:
	case FIFREEZE:
	case FITHAW:
	case FS_IOC_FIEMAP:
		return true;
	default:
		return false;
	}
}

long device_ioctl(const struct object_call *call)
{
	/* The kernel's own prototype takes the command as an unsigned int. */
	unsigned int command = (unsigned int)call->call->args[1];
	const struct file_ops *ops = file_ops_of(call->file);

	if (transfer_is_clone(command))
		return transfer_clone(call);
	if (is_kernels(command))
		return OBJECT_FORWARD;
	params_refresh();
	return ops->ioctl ? ops->ioctl(call->file, command, call->call->args[2]) : -ENOTTY;
}

/*
 * KVM's commands on what is no object of ours: a descriptor of the device is /dev/kvm, whichever
 * process opened it and by what path; any other file has no such command. The kernel must not be
 * asked, for the run's filter has an errno of its own for them.
 */
long device_other_ioctl(const struct boundary_call *call)
{
	unsigned int command = (unsigned int)call->args[1];
	long flags;

	if (transfer_is_clone(command))
		return transfer_clone_from(call);
	if (_IOC_TYPE(command) != KVMIO)
		return OBJECT_FORWARD;
	flags = BOUNDARY_KERNEL(SYS_fcntl, call->args[0], F_GETFL);
	if (flags < 0 || (flags & O_PATH))
		return -EBADF;
	if (node_is_kvm((int)call->args[0]))
		return node_ioctl(call);
	/* It came by a socket, or was kept over exec: it belongs to another address space. */
	return node_is_strangers((int)call->args[0]) ? -EIO : -ENOTTY;
}

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES 0x80
#endif

/* Is @mode one that the kernel asks a file for? */
static bool is_mode(int mode)
{
	bool keeps = mode & FALLOC_FL_KEEP_SIZE;

	switch (mode & ~FALLOC_FL_KEEP_SIZE) {
	case 0:
	case FALLOC_FL_UNSHARE_RANGE:
	case FALLOC_FL_ZERO_RANGE:
		return true;
	case FALLOC_FL_PUNCH_HOLE:
		return keeps;
	case FALLOC_FL_COLLAPSE_RANGE:
	case FALLOC_FL_INSERT_RANGE:
	case FALLOC_FL_WRITE_ZEROES:
		return !keeps;
	default:
		return false;
	}
}

/* What the kernel checks before it asks the file. */
static long allocate_check(const struct object_call *call)
{
	int mode = (int)call->call->args[1];
	off_t offset = (off_t)call->call->args[2], size_bytes = (off_t)call->call->args[3], end;

	if (offset < 0 || size_bytes <= 0)
		return -EINVAL;
	if (!is_mode(mode))
		return -EOPNOTSUPP;
	switch (file_ops_of(call->file)->kind) {
	case FILE_STATS:
		return -EBADF;
	case FILE_GMEM:
		return __builtin_add_overflow(offset, size_bytes, &end) ? -EFBIG : 0;
	default: /* no regular file */
		return -ENODEV;
	}
}

/* An allocation or a punch that succeeded shows in the times of the file. */
static void touch_times(int fd)
{
	static const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};

	(void)BOUNDARY_KERNEL(SYS_utimensat, (unsigned long)fd, 0, (unsigned long)times, 0);
}

long device_allocate(const struct object_call *call)
{
	const struct file_ops *ops = file_ops_of(call->file);
	int mode = (int)call->call->args[1];
	off_t offset = (off_t)call->call->args[2], size_bytes = (off_t)call->call->args[3];
	long error = allocate_check(call);

	if (error)
		return error;
	if (!ops->allocate)
		return -EOPNOTSUPP;
	error = ops->allocate(call->file, mode, offset, size_bytes);
	if (!error)
		touch_times(call->fd);
	return error;
}
