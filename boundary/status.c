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

#define NS_PER_S INT64_C(1000000000)

static struct timespec time_of(int64_t ns)
{
	return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

static struct statx_timestamp statx_time_of(int64_t ns)
{
	return (struct statx_timestamp){.tv_sec = ns / NS_PER_S,
					.tv_nsec = (uint32_t)(ns % NS_PER_S)};
}

static bool is_linked(const struct file *file, struct file_inode *inode)
{
	return file_ops_of(file)->inode && file_ops_of(file)->inode(file, inode);
}

/* Files of one guest_memfd have descriptors of their own, and one inode. */
static void correct_inode(const struct file *file, struct stat *answer)
{
	struct file_inode inode;

	if (!is_linked(file, &inode))
		return;
	answer->st_dev = inode.device;
	answer->st_ino = inode.inode;
	answer->st_nlink = inode.links;
	answer->st_atim = time_of(inode.accessed_ns);
	answer->st_mtim = time_of(inode.modified_ns);
	answer->st_ctim = time_of(inode.changed_ns);
}

static void correct_inode_x(const struct file *file, struct statx *answer)
{
	struct file_inode inode;

	if (!is_linked(file, &inode))
		return;
	answer->stx_dev_major = major(inode.device);
	answer->stx_dev_minor = minor(inode.device);
	answer->stx_ino = inode.inode;
	answer->stx_nlink = inode.links;
	answer->stx_atime = statx_time_of(inode.accessed_ns);
	answer->stx_mtime = statx_time_of(inode.modified_ns);
	answer->stx_ctime = statx_time_of(inode.changed_ns);
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
	correct_inode(call->file, &answer);
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
	correct_inode_x(call->file, &answer);
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
