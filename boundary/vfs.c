/* The table of calls that take a descriptor, as the kernel's VFS and KVM's files answer them. */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "boundary/newer_calls.h"
#include "boundary/node.h"
#include "boundary/rows.h"

/* One cell: an error, the kernel's own answer, or a function. */
#define NO(error_number)           \
	{                          \
		NULL, error_number \
	}
#define KERNEL          \
	{               \
		NULL, 0 \
	}
#define BY(function)        \
	{                   \
		function, 0 \
	}
/*
 * A row: the same for all objects, or /dev/kvm, VM, vCPU, guest_memfd, statistics. Each stands by
 * itself: a table of the rows would be mostly empty, and every program of a run pays for its pages.
 */
#define ROW &(const struct boundary_row)
#define ALL(fds, cell)                                                           \
	ROW                                                                      \
	{                                                                        \
		.fd_arguments = (fds), .cells = { cell, cell, cell, cell, cell } \
	}
#define EACH(fds, kvm, vm, vcpu, gmem, stats)                                  \
	ROW                                                                    \
	{                                                                      \
		.fd_arguments = (fds), .cells = { kvm, vm, vcpu, gmem, stats } \
	}
/* A write, which a parameter's file takes, too. */
#define WRITE(kvm, vm, vcpu, gmem, stats)                                   \
	ROW                                                                 \
	{                                                                   \
		.fd_arguments = FD0, .cells = {kvm, vm, vcpu, gmem, stats}, \
		.other = parameter_write                                    \
	}

/* A call that takes a descriptor of O_PATH, too. */
#define ALL_OR_PATH(fds, cell)                                        \
	ROW                                                           \
	{                                                             \
		.fd_arguments = (fds), .takes_path = true, .cells = { \
			cell,                                         \
			cell,                                         \
			cell,                                         \
			cell,                                         \
			cell                                          \
		}                                                     \
	}
#define EACH_OR_PATH(fds, kvm, vm, vcpu, gmem, stats)                                              \
	ROW                                                                                        \
	{                                                                                          \
		.fd_arguments = (fds), .takes_path = true, .cells = { kvm, vm, vcpu, gmem, stats } \
	}
/* The same that changes what a path leads to. */
#define ALL_OR_CHANGE(fds, cell)                                              \
	ROW                                                                   \
	{                                                                     \
		.fd_arguments = (fds), .takes_path = true,                    \
		.cells = {cell, cell, cell, cell, cell}, .other = link_change \
	}
/* A call on a descriptor or on a path. */
#define ALL_AND_PATH(fds, cell)                                              \
	ROW                                                                  \
	{                                                                    \
		.fd_arguments = (fds), .takes_path = true,                   \
		.cells = {cell, cell, cell, cell, cell}, .other = path_look, \
		.settle = path_look_settle                                   \
	}
/* A call on a path alone. */
#define PATH(before, after)                       \
	ROW                                       \
	{                                         \
		.other = before, .settle = after, \
	}
/* A call on addresses. */
#define PLACE(before)            \
	ROW                      \
	{                        \
		.other = before, \
	}
#define NOPOS BY(contents_no_position)
#define SEEK BY(contents_seek)
#define STATFS BY(status_fstatfs)
#define SYNC BY(contents_sync_range)
#define FD0 1
#define FD1 2
#define FD2 4

/* clang-format off: one row a line, as far as it goes. */
const struct boundary_row *const boundary_rows[BOUNDARY_NR_MAX] = {
    [SYS_ioctl] =
	ROW{
	    .fd_arguments = FD0,
	    .cells = {BY(device_ioctl), BY(device_ioctl), BY(device_ioctl), BY(device_ioctl),
		      BY(device_ioctl)},
	    .other = device_other_ioctl,
	},
    [SYS_fallocate] = ALL(FD0, BY(device_allocate)),

    /* Columns: /dev/kvm, VM, vCPU, guest_memfd, statistics. */
    [SYS_read] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_read)),
    [SYS_readv] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_readv)),
    [SYS_pread64] = EACH(FD0, NO(EINVAL), NOPOS, NOPOS, NOPOS, BY(contents_pread)),
    [SYS_preadv] = EACH(FD0, NO(EINVAL), NOPOS, NOPOS, NOPOS, BY(contents_preadv)),
    [SYS_preadv2] = EACH(FD0, NO(EINVAL), NOPOS, NOPOS, NOPOS, BY(contents_preadv)),
    /* Statistics are open for reading alone; that positions are, too, is looked at first. */
    [SYS_write] = WRITE(NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_write), NO(EBADF)),
    [SYS_writev] = WRITE(NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_writev), NO(EBADF)),
    [SYS_pwrite64] = WRITE(NO(EINVAL), NOPOS, NOPOS, BY(contents_pwrite), NOPOS),
    [SYS_pwritev] = WRITE(NO(EINVAL), NOPOS, NOPOS, BY(contents_pwritev), NOPOS),
    [SYS_pwritev2] = WRITE(NO(EINVAL), NOPOS, NOPOS, BY(contents_pwritev), NOPOS),
    [SYS_lseek] = EACH(FD0, SEEK, SEEK, SEEK, BY(contents_file_seek), SEEK),

    [SYS_sendfile] = ALL(FD0 | FD1, BY(transfer_sendfile)),
    [SYS_splice] = ALL(FD0 | FD2, BY(transfer_splice)),
    [SYS_copy_file_range] = ALL(FD0 | FD2, BY(transfer_copy)),

    [SYS_fsync] = ALL(FD0, NO(EINVAL)),
    [SYS_fdatasync] = ALL(FD0, NO(EINVAL)),
    [SYS_readahead] = ALL(FD0, NO(EINVAL)),
    [SYS_sync_file_range] = EACH(FD0, SYNC, SYNC, SYNC, KERNEL, SYNC),

    [SYS_fstat] = ALL_OR_PATH(FD0, BY(status_fstat)),
    [SYS_newfstatat] = ALL_AND_PATH(FD0, BY(status_fstatat)),
    [SYS_statx] = ALL_AND_PATH(FD0, BY(status_statx)),
    [SYS_fstatfs] = EACH_OR_PATH(FD0, KERNEL, STATFS, STATFS, STATFS, STATFS),

    [SYS_ftruncate] = ALL(FD0, NO(EINVAL)),
    [SYS_fchmod] = ALL(FD0, BY(attributes_change)),
    [SYS_fchmodat2] = ALL_OR_CHANGE(FD0, BY(attributes_chmodat)),
    [SYS_fchown] = ALL(FD0, BY(attributes_change)),
    [SYS_fchownat] = ALL_OR_CHANGE(FD0, BY(attributes_chownat)),
    [SYS_utimensat] = ALL_OR_CHANGE(FD0, BY(attributes_times)),
    [SYS_futimesat] = ALL_OR_CHANGE(FD0, BY(attributes_old_times)),
    [SYS_fsetxattr] = ALL(FD0, BY(attributes_extended)),
    [SYS_fgetxattr] = ALL(FD0, BY(attributes_extended)),
    [SYS_fremovexattr] = ALL(FD0, BY(attributes_extended)),
    [SYS_flistxattr] = ALL(FD0, BY(attributes_none)),
    [SYS_setxattrat] = ALL_OR_PATH(FD0, BY(attributes_extended_at)),
    [SYS_getxattrat] = ALL_OR_PATH(FD0, BY(attributes_extended_at)),
    [SYS_removexattrat] = ALL_OR_PATH(FD0, BY(attributes_extended_at)),
    [SYS_listxattrat] = ALL_OR_PATH(FD0, BY(attributes_extended_at)),
    [SYS_file_getattr] = ALL_OR_PATH(FD0, BY(attributes_file_at)),
    [SYS_file_setattr] = ALL_OR_PATH(FD0, BY(attributes_file_at)),
    [SYS_name_to_handle_at] = ALL_OR_PATH(FD0, BY(attributes_handle)),

    [SYS_mbind] = PLACE(placement_bind),
    [SYS_move_pages] = PLACE(placement_move),

    [SYS_open] = PATH(path_open, path_open_settle),
    [SYS_openat] = PATH(path_open, path_open_settle),
    [SYS_openat2] = PATH(path_open, path_open_settle),
    [SYS_creat] = PATH(path_open, path_open_settle),
    [SYS_stat] = PATH(path_look, path_look_settle),
    [SYS_lstat] = PATH(path_look, path_look_settle),
    [SYS_access] = PATH(path_look, path_look_settle),
    [SYS_faccessat] = PATH(path_look, path_look_settle),
    [SYS_faccessat2] = PATH(path_look, path_look_settle),
    [SYS_chdir] = PATH(path_look, NULL),
    [SYS_readlink] = PATH(link_read, link_read_settle),
    [SYS_readlinkat] = PATH(link_read, link_read_settle),
    [SYS_truncate] = PATH(link_change, NULL),
    [SYS_chmod] = PATH(link_change, NULL),
    [SYS_fchmodat] = PATH(link_change, NULL),
    [SYS_chown] = PATH(link_change, NULL),
    [SYS_utime] = PATH(link_change, NULL),
    [SYS_utimes] = PATH(link_change, NULL),
    [SYS_setxattr] = PATH(link_change, NULL),
    [SYS_getxattr] = PATH(link_change, NULL),
    [SYS_removexattr] = PATH(link_change, NULL),

    [SYS_chroot] = PATH(node_leave_root, NULL),
    [SYS_pivot_root] = PATH(node_leave_root, NULL),
    [SYS_setns] = PATH(node_leave_root, NULL),
    [SYS_mount] = PATH(node_mount, NULL),
    [SYS_umount2] = PATH(node_unmount, NULL),

    [SYS_fcntl] = ALL(FD0, BY(flags_fcntl)),
    [SYS_flock] = ALL(FD0, BY(flags_flock)),
};
/* clang-format on */
