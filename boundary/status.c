/* fstat and its kin: the kernel fills the answer in for the inert descriptor, this corrects it. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "boundary/rows.h"
#include "frontend/file/user_copy.h"

#define ANON_INODE_MAGIC 0x09041934
#define GUEST_MEMFD_MAGIC 0x474d454d
/* As statfs() reports the flags of a mount: that they are reported, and that nothing is executed.
 */
#define FLAGS_VALID 0x20
#define FLAGS_NOEXEC 0x08
#define ATTRIBUTES_OF_TMPFS                                                            \
	((uint64_t)(STATX_ATTR_COMPRESSED | STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | \
		    STATX_ATTR_NODUMP))

/* What KVM's file of one kind reports. */
struct status {
	unsigned int mode;
	uint64_t size_bytes;
	dev_t device; /* of a device node */
};

static struct status status_of(const struct file *file)
{
	switch (file_ops_of(file)->kind) {
	case FILE_KVM:
		return (struct status){S_IFCHR | 0666, 0, makedev(10, 232)};
	case FILE_GMEM:
		return (struct status){S_IFREG | 0600, file_size_bytes(file), 0};
	default:
		/* An anonymous inode has no type to the outside. */
		return (struct status){0600, 0, 0};
	}
}

static long correct_stat(const struct object_call *call, unsigned long address)
{
	const struct status status = status_of(call->file);
	struct stat answer;

	if (user_copy_in(&answer, address, sizeof(answer)))
		return -EFAULT;
	answer.st_mode = status.mode;
	answer.st_nlink = 1;
	answer.st_rdev = status.device;
	answer.st_size = (off_t)status.size_bytes;
	answer.st_blocks = 0;
	answer.st_blksize = 4096;
	return user_copy_out(address, &answer, sizeof(answer));
}

static long correct_statx(const struct object_call *call, unsigned long address)
{
	const struct status status = status_of(call->file);
	struct statx answer;

	if (user_copy_in(&answer, address, sizeof(answer)))
		return -EFAULT;
	answer.stx_mode = (uint16_t)status.mode;
	answer.stx_nlink = 1;
	answer.stx_rdev_major = major(status.device);
	answer.stx_rdev_minor = minor(status.device);
	answer.stx_size = status.size_bytes;
	answer.stx_blocks = 0;
	answer.stx_blksize = 4096;
	if (!status.device) {
		/* The file systems of anonymous files keep neither. */
		answer.stx_mask &= ~STATX_BTIME;
		memset(&answer.stx_btime, 0, sizeof(answer.stx_btime));
		answer.stx_attributes_mask &= ~ATTRIBUTES_OF_TMPFS;
	}
	return user_copy_out(address, &answer, sizeof(answer));
}

long status_fstat(const struct object_call *call)
{
	long error = boundary_kernel(call->call);

	return error ? error : correct_stat(call, call->call->args[1]);
}

/* newfstatat(fd, path, status, flags) that names the descriptor itself. */
long status_fstatat(const struct object_call *call)
{
	long error;

	if (!path_is_itself(call->call, 1, 3))
		return path_look(call->call);
	error = boundary_kernel(call->call);
	return error ? error : correct_stat(call, call->call->args[2]);
}

/* statx(fd, path, flags, mask, status). */
long status_statx(const struct object_call *call)
{
	long error;

	if (!path_is_itself(call->call, 1, 2))
		return path_look(call->call);
	error = boundary_kernel(call->call);
	return error ? error : correct_statx(call, call->call->args[4]);
}

/* The kernel's own file systems of anonymous files count nothing. */
long status_fstatfs(const struct object_call *call)
{
	enum file_kind kind = file_ops_of(call->file)->kind;
	struct statfs answer;
	dev_t device;
	ino_t inode;

	memset(&answer, 0, sizeof(answer));
	answer.f_type = kind == FILE_GMEM ? GUEST_MEMFD_MAGIC : ANON_INODE_MAGIC;
	answer.f_bsize = answer.f_frsize = 4096;
	answer.f_namelen = 255;
	answer.f_flags = FLAGS_VALID | (kind == FILE_GMEM ? FLAGS_NOEXEC : 0);
	file_inode(call->file, &device, &inode);
	memcpy(&answer.f_fsid, &device, sizeof(answer.f_fsid));
	return user_copy_out(call->call->args[1], &answer, sizeof(answer));
}
