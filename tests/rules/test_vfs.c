/*
 * Every system call that takes a descriptor, on every kind of object, answers what the kernel's VFS
 * answers for KVM's own file. The wanted answers are from the kernel's source, by the comment over
 * each group; the list of calls is checked against the header of the kernel's own table.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boundary/newer_calls.h"
#include "client.h"

/* The columns. */
static const char *const object_names[OBJECTS] = {"/dev/kvm", "a VM", "a vCPU", "a guest_memfd",
						  "statistics"};
static int descriptors[OBJECTS];

/* Arguments that are put in when the call is made. */
#define FD 0x7d000001l
#define PIPE_IN 0x7d000002l
#define PIPE_OUT 0x7d000003l
#define FILE_FD 0x7d000004l
#define EPOLL 0x7d000005l
#define BUFFER 0x7d000006l   /* zeroed; 4096 bytes */
#define PARTS 0x7d000007l    /* one part of 8 bytes */
#define EMPTY 0x7d000008l    /* "" */
#define NAME 0x7d000009l     /* "user.x" */
#define ODD_NAME 0x7d00000al /* "odd" */
#define HANDLE 0x7d00000bl   /* a file handle with room for 64 bytes */

#define HANDLE_FID 0x200 /* AT_HANDLE_FID of Linux 6.5 */

/* Wanted: an errno as a negative number, a result, or any that is no error. */
#define OK 1000000l
#define ANY_ERROR (-1000000l)
#define SAME(answer)                                   \
	{                                              \
		answer, answer, answer, answer, answer \
	}

struct row {
	const char *name;
	long nr;
	long args[6];
	long wanted[OBJECTS];
};

#define ROW(call, ...) .name = #call, .nr = SYS_##call, .args = {__VA_ARGS__}

/* clang-format off: one row a line. */
static const struct row rows[] = {
    /* vfs_read, vfs_write: no function to do it. ksys_pread64: FMODE_PREAD, which only an
       open by path and kvm_stats have. */
    {ROW(read, FD, BUFFER, 8), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, 8}},
    {ROW(read, FD, BUFFER, 0), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, 0}},
    {ROW(readv, FD, PARTS, 1), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, 8}},
    {ROW(pread64, FD, BUFFER, 8, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, 8}},
    {ROW(pread64, FD, BUFFER, 8, -1), .wanted = SAME(-EINVAL)},
    {ROW(preadv, FD, PARTS, 1, 0, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, 8}},
    {ROW(preadv2, FD, PARTS, 1, 0, 0, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, 8}},
    {ROW(preadv2, FD, PARTS, 1, -1, -1, 0), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, 8}},
    {ROW(write, FD, BUFFER, 8), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(writev, FD, PARTS, 0), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(writev, FD, 1, 1), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(writev, FD, PARTS, 1), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(pwrite64, FD, BUFFER, 8, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, -ESPIPE}},
    {ROW(pwritev, FD, PARTS, 0, 0, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, -ESPIPE}},
    {ROW(pwritev, FD, PARTS, 1, 0, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, -ESPIPE}},
    {ROW(pwritev2, FD, PARTS, 1, 0, 0, 0), .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, -ESPIPE}},
    {ROW(pwritev2, FD, PARTS, 1, -1, -1, 0),
     .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    /* vfs_llseek: noop_llseek, and none of guest_memfd. */
    {ROW(lseek, FD, 5, SEEK_SET), .wanted = {0, 0, 0, -ESPIPE, OK}},
    {ROW(lseek, FD, 0, 9), .wanted = SAME(-EINVAL)},
    /* do_vfs_ioctl, before the file's own: see also test_flags_of_a_descriptor. */
    {ROW(ioctl, FD, FIGETBSZ, BUFFER), .wanted = SAME(0)},
    {ROW(ioctl, FD, 0x5421 /* FIONBIO */, BUFFER), .wanted = SAME(0)},
    {ROW(ioctl, FD, 0x541b /* FIONREAD */, BUFFER),
     .wanted = {-EINVAL, -ENOTTY, -EINVAL, -ENOTTY, -ENOTTY}},
    {ROW(ioctl, FD, 0x5401 /* TCGETS */, BUFFER),
     .wanted = {-EINVAL, -ENOTTY, -EINVAL, -ENOTTY, -ENOTTY}},
    {ROW(ioctl, FD, FS_IOC_GETFLAGS, BUFFER),
     .wanted = {-EINVAL, -ENOTTY, -EINVAL, -ENOTTY, -ENOTTY}},
    /* vfs_clone_file_range: another file system; vfs_dedupe_file_range: no regular file. */
    {ROW(ioctl, FD, FICLONE, FILE_FD), .wanted = SAME(-EXDEV)},
    {ROW(ioctl, FILE_FD, FICLONE, FD), .wanted = SAME(-EXDEV)},
    {ROW(ioctl, FD, FICLONE, FD), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EOPNOTSUPP, -EINVAL}},
    {ROW(ioctl, FD, FICLONE, -1), .wanted = SAME(-EBADF)},
    {ROW(ioctl, FD, FICLONERANGE, 8), .wanted = SAME(-EFAULT)},
    {ROW(ioctl, FD, FIDEDUPERANGE, 8), .wanted = SAME(-EFAULT)},
    {ROW(ioctl, FD, FIDEDUPERANGE, BUFFER),
     .wanted = {-EINVAL, -EINVAL, -EINVAL, -EOPNOTSUPP, -EINVAL}},
    /* vfs_fallocate: the mode, FMODE_WRITE, the type of the inode, the file's function. */
    {ROW(fallocate, FD, 0, 0, 4096), .wanted = {-ENODEV, -ENODEV, -ENODEV, -EOPNOTSUPP, -EBADF}},
    {ROW(fallocate, FD, FALLOC_FL_KEEP_SIZE, 0, 4096),
     .wanted = {-ENODEV, -ENODEV, -ENODEV, 0, -EBADF}},
    {ROW(fallocate, FD, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
     .wanted = {-ENODEV, -ENODEV, -ENODEV, 0, -EBADF}},
    {ROW(fallocate, FD, FALLOC_FL_PUNCH_HOLE, 0, 4096), .wanted = SAME(-EOPNOTSUPP)},
    {ROW(fallocate, FD, 0, 0, 0), .wanted = SAME(-EINVAL)},
    {ROW(fallocate, FD, FALLOC_FL_KEEP_SIZE, 4096, INT64_MAX),
     .wanted = {-ENODEV, -ENODEV, -ENODEV, -EFBIG, -EBADF}},
    /* No fsync; ksys_readahead and sync_file_range() of no regular file. An anonymous inode has
       no type, inside the kernel as outside. */
    {ROW(fsync, FD), .wanted = SAME(-EINVAL)},
    {ROW(fdatasync, FD), .wanted = SAME(-EINVAL)},
    {ROW(syncfs, FD), .wanted = SAME(0)},
    {ROW(sync_file_range, FD, 0, 4096, 0), .wanted = {-ESPIPE, -ESPIPE, -ESPIPE, 0, -ESPIPE}},
    {ROW(sync_file_range, FD, 0, 4096, 8), .wanted = SAME(-EINVAL)},
    {ROW(sync_file_range, FD, -1, 0, 0), .wanted = SAME(-EINVAL)},
    {ROW(readahead, FD, 0, 4096), .wanted = SAME(-EINVAL)},
    {ROW(fadvise64, FD, 0, 4096, POSIX_FADV_DONTNEED), .wanted = SAME(0)},
    {ROW(fadvise64, FD, 0, 4096, 99), .wanted = SAME(-EINVAL)},
    /* do_sendfile, do_splice, vfs_copy_file_range. */
    {ROW(sendfile, PIPE_OUT, FD, 0, 8), .wanted = SAME(-EINVAL)},
    {ROW(sendfile, PIPE_OUT, FD, BUFFER, 8),
     .wanted = {-EINVAL, -ESPIPE, -ESPIPE, -ESPIPE, -EINVAL}},
    {ROW(sendfile, FD, FILE_FD, BUFFER, 8), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(sendfile, FD, FILE_FD, 0, 0), .wanted = {0, 0, 0, 0, -EBADF}},
    {ROW(sendfile, FD, PIPE_IN, 0, 0), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(splice, FD, 0, PIPE_OUT, 0, 8, 0), .wanted = SAME(-EINVAL)},
    {ROW(splice, PIPE_IN, 0, FD, 0, 8, 0), .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EBADF}},
    {ROW(splice, FD, 0, PIPE_OUT, BUFFER, 8, 0), .wanted = SAME(-ESPIPE)},
    {ROW(splice, FD, 0, PIPE_OUT, 0, 0, 0), .wanted = SAME(0)},
    {ROW(sendfile, PIPE_OUT, FD, 8, 8), .wanted = SAME(-EFAULT)},
    {ROW(sendfile, FD, 9999, 0, 8), .wanted = SAME(-EBADF)},
    {ROW(sendfile, 9999, FD, 0, 8), .wanted = SAME(-EBADF)},
    {ROW(splice, FD, 0, 9999, 0, 8, 0), .wanted = SAME(-EBADF)},
    {ROW(splice, FD, 0, PIPE_OUT, 0, 8, 1 << 20), .wanted = SAME(-EINVAL)},
    {ROW(splice, FD, 8, PIPE_OUT, 0, 8, 0), .wanted = SAME(-EFAULT)},
    {ROW(copy_file_range, FD, 8, FILE_FD, 0, 8, 0), .wanted = SAME(-EFAULT)},
    {ROW(copy_file_range, FD, 0, 9999, 0, 8, 0), .wanted = SAME(-EBADF)},
    {ROW(tee, FD, PIPE_OUT, 8, 0), .wanted = SAME(-EINVAL)},
    {ROW(tee, PIPE_IN, FD, 8, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(vmsplice, FD, PARTS, 1, 0), .wanted = SAME(-EBADF)},
    {ROW(copy_file_range, FD, 0, FILE_FD, 0, 8, 0),
     .wanted = {-EINVAL, -EINVAL, -EINVAL, -EXDEV, -EINVAL}},
    {ROW(copy_file_range, FILE_FD, 0, FD, 0, 8, 0),
     .wanted = {-EINVAL, -EINVAL, -EINVAL, -EXDEV, -EINVAL}},
    {ROW(copy_file_range, FD, 0, FD, 0, 8, 1), .wanted = SAME(-EINVAL)},
    /* anon_inode_setattr and kvm_gmem_setattr; a device node takes it (and here it is the
       owner's). */
    {ROW(ftruncate, FD, 4096), .wanted = SAME(-EINVAL)},
    {ROW(ftruncate, FD, -1), .wanted = SAME(-EINVAL)},
    {ROW(fchmod, FD, 0600), .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    {ROW(fchmodat2, FD, EMPTY, 0600, AT_EMPTY_PATH),
     .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    {ROW(fchown, FD, -1, -1), .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    {ROW(fchownat, FD, EMPTY, -1, -1, AT_EMPTY_PATH),
     .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    {ROW(utimensat, FD, 0, 0, 0), .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    {ROW(futimesat, FD, 0, 0), .wanted = {OK, -EOPNOTSUPP, -EOPNOTSUPP, -EINVAL, -EOPNOTSUPP}},
    /* setxattr_copy; xattr_permission: only a regular file has attributes of the user's;
       xattr_resolve_name: no handlers. */
    {ROW(fsetxattr, FD, NAME, BUFFER, 1, 0),
     .wanted = {-EPERM, -EPERM, -EPERM, -EOPNOTSUPP, -EPERM}},
    {ROW(fsetxattr, FD, NAME, BUFFER, 1, 9), .wanted = SAME(-EINVAL)},
    {ROW(fsetxattr, FD, NAME, BUFFER, 1 << 20, 0), .wanted = SAME(-E2BIG)},
    {ROW(fsetxattr, FD, NAME, 8, 1, 0), .wanted = SAME(-EFAULT)},
    {ROW(fsetxattr, FD, ODD_NAME, BUFFER, 1, 0), .wanted = SAME(-EOPNOTSUPP)},
    {ROW(fgetxattr, FD, NAME, BUFFER, 8),
     .wanted = {-ENODATA, -ENODATA, -ENODATA, -EOPNOTSUPP, -ENODATA}},
    {ROW(fgetxattr, FD, EMPTY, BUFFER, 8), .wanted = SAME(-ERANGE)},
    {ROW(fgetxattr, FD, ODD_NAME, BUFFER, 8), .wanted = SAME(-EOPNOTSUPP)},
    {ROW(fremovexattr, FD, NAME), .wanted = {-EPERM, -EPERM, -EPERM, -EOPNOTSUPP, -EPERM}},
    {ROW(setxattrat, FD, EMPTY, AT_EMPTY_PATH, NAME, BUFFER, 16),
     .wanted = {-EPERM, -EPERM, -EPERM, -EOPNOTSUPP, -EPERM}},
    {ROW(setxattrat, FD, EMPTY, AT_EMPTY_PATH, NAME, BUFFER, 8), .wanted = SAME(-EINVAL)},
    {ROW(setxattrat, FD, EMPTY, AT_EMPTY_PATH, NAME, 0, 16), .wanted = SAME(-EFAULT)},
    {ROW(setxattrat, FD, NAME, 0, NAME, BUFFER, 16), .wanted = SAME(-ENOTDIR)},
    {ROW(getxattrat, FD, EMPTY, AT_EMPTY_PATH, NAME, BUFFER, 16),
     .wanted = {-ENODATA, -ENODATA, -ENODATA, -EOPNOTSUPP, -ENODATA}},
    {ROW(removexattrat, FD, EMPTY, AT_EMPTY_PATH, NAME),
     .wanted = {-EPERM, -EPERM, -EPERM, -EOPNOTSUPP, -EPERM}},
    {ROW(listxattrat, FD, EMPTY, AT_EMPTY_PATH, BUFFER, 8), .wanted = SAME(0)},
    /* vfs_fileattr_get: no inode of these has the function. */
    {ROW(file_getattr, FD, EMPTY, BUFFER, 24, AT_EMPTY_PATH), .wanted = SAME(-EOPNOTSUPP)},
    {ROW(file_getattr, FD, EMPTY, BUFFER, 8, AT_EMPTY_PATH), .wanted = SAME(-EINVAL)},
    {ROW(file_setattr, FD, EMPTY, BUFFER, 24, AT_EMPTY_PATH), .wanted = SAME(-EOPNOTSUPP)},
    {ROW(file_setattr, FD, EMPTY, 8, 24, AT_EMPTY_PATH), .wanted = SAME(-EFAULT)},
    {ROW(flistxattr, FD, BUFFER, 8), .wanted = SAME(0)},
    /* memfd_fcntl, setfl(), do_fcntl_add_lease, fcntl_dirnotify. */
    {ROW(fcntl, FD, F_GETFD, 0), .wanted = SAME(OK)},
    {ROW(fcntl, FD, F_ADD_SEALS, F_SEAL_WRITE),
     .wanted = {-EINVAL, -EINVAL, -EINVAL, -EINVAL, -EPERM}},
    {ROW(fcntl, FD, F_GET_SEALS, 0), .wanted = SAME(-EINVAL)},
    {ROW(fcntl, FD, F_SETFL, O_DIRECT), .wanted = SAME(-EINVAL)},
    {ROW(fcntl, FD, F_SETLEASE, F_RDLCK), .wanted = SAME(-EINVAL)},
    {ROW(fcntl, FD, F_NOTIFY, 1), .wanted = SAME(-ENOTDIR)},
    {ROW(flock, FD, 1 /* LOCK_SH */), .wanted = SAME(0)},
    {ROW(flock, FD, 77), .wanted = SAME(-EINVAL)},
    /* fstat and its kin: see also test_status. */
    {ROW(fstat, FD, BUFFER), .wanted = SAME(0)},
    {ROW(fstat, FD, 0), .wanted = SAME(-EFAULT)},
    {ROW(newfstatat, FD, EMPTY, BUFFER, AT_EMPTY_PATH), .wanted = SAME(0)},
    {ROW(statx, FD, EMPTY, AT_EMPTY_PATH, STATX_ALL, BUFFER), .wanted = SAME(0)},
    {ROW(fstatfs, FD, BUFFER), .wanted = SAME(0)},
    {ROW(name_to_handle_at, FD, EMPTY, BUFFER, BUFFER, AT_EMPTY_PATH),
     .wanted = {ANY_ERROR, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP, -EOPNOTSUPP}},
    {ROW(name_to_handle_at, FD, EMPTY, HANDLE, PARTS, AT_EMPTY_PATH | HANDLE_FID),
     .wanted = SAME(0)},
    /* do_open_execat: a file without the right to be executed. */
    {ROW(execveat, FD, EMPTY, 0, 0, AT_EMPTY_PATH), .wanted = SAME(-EACCES)},
    /* No directory. */
    {ROW(getdents, FD, BUFFER, 4096), .wanted = SAME(-ENOTDIR)},
    {ROW(getdents64, FD, BUFFER, 4096), .wanted = SAME(-ENOTDIR)},
    {ROW(fchdir, FD), .wanted = SAME(-ENOTDIR)},
    {ROW(openat, FD, NAME, O_RDONLY, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(openat2, FD, NAME, BUFFER, 24), .wanted = SAME(-ENOTDIR)},
    {ROW(mkdirat, FD, NAME, 0700), .wanted = SAME(-ENOTDIR)},
    {ROW(mknodat, FD, NAME, S_IFIFO | 0600, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(newfstatat, FD, NAME, BUFFER, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(statx, FD, NAME, 0, STATX_ALL, BUFFER), .wanted = SAME(-ENOTDIR)},
    {ROW(fchownat, FD, NAME, -1, -1, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(fchmodat, FD, NAME, 0600), .wanted = SAME(-ENOTDIR)},
    {ROW(fchmodat2, FD, NAME, 0600, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(utimensat, FD, NAME, 0, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(futimesat, FD, NAME, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(faccessat, FD, NAME, F_OK), .wanted = SAME(-ENOTDIR)},
    {ROW(faccessat2, FD, NAME, F_OK, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(unlinkat, FD, NAME, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(renameat, FD, NAME, FD, NAME), .wanted = SAME(-ENOTDIR)},
    {ROW(renameat2, FD, NAME, FD, NAME, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(linkat, FD, NAME, FD, NAME, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(symlinkat, NAME, FD, NAME), .wanted = SAME(-ENOTDIR)},
    {ROW(readlinkat, FD, NAME, BUFFER, 8), .wanted = SAME(-ENOTDIR)},
    {ROW(readlinkat, FD, EMPTY, BUFFER, 8), .wanted = SAME(ANY_ERROR)},
    {ROW(name_to_handle_at, FD, NAME, BUFFER, BUFFER, 0), .wanted = SAME(-ENOTDIR)},
    {ROW(open_by_handle_at, FD, BUFFER, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(inotify_add_watch, FD, EMPTY, 1), .wanted = SAME(-EINVAL)},
    {ROW(inotify_rm_watch, FD, 1), .wanted = SAME(-EINVAL)},
    {ROW(fanotify_mark, FD, 1, 1, FD, 0), .wanted = SAME(ANY_ERROR)},
    /* No poll function: always ready, and nothing for epoll. */
    {ROW(epoll_ctl, EPOLL, EPOLL_CTL_ADD, FD, BUFFER), .wanted = SAME(-EPERM)},
    {ROW(epoll_ctl, FD, EPOLL_CTL_ADD, PIPE_IN, BUFFER), .wanted = SAME(-EINVAL)},
    {ROW(epoll_wait, FD, BUFFER, 1, 0), .wanted = SAME(-EINVAL)},
    {ROW(epoll_pwait, FD, BUFFER, 1, 0, 0), .wanted = SAME(-EINVAL)},
    {ROW(epoll_pwait2, FD, BUFFER, 1, BUFFER, 0), .wanted = SAME(-EINVAL)},
    /* Another kind of file is wanted. */
    {ROW(signalfd, FD, BUFFER, 8), .wanted = SAME(-EINVAL)},
    {ROW(signalfd4, FD, BUFFER, 8, 0), .wanted = SAME(-EINVAL)},
    {ROW(timerfd_settime, FD, 0, BUFFER, 0), .wanted = SAME(-EINVAL)},
    {ROW(timerfd_gettime, FD, BUFFER), .wanted = SAME(-EINVAL)},
    {ROW(accept, FD, 0, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(accept4, FD, 0, 0, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(bind, FD, BUFFER, 16), .wanted = SAME(-ENOTSOCK)},
    {ROW(connect, FD, BUFFER, 16), .wanted = SAME(-ENOTSOCK)},
    {ROW(listen, FD, 1), .wanted = SAME(-ENOTSOCK)},
    {ROW(getsockname, FD, BUFFER, BUFFER), .wanted = SAME(-ENOTSOCK)},
    {ROW(getpeername, FD, BUFFER, BUFFER), .wanted = SAME(-ENOTSOCK)},
    {ROW(getsockopt, FD, 1, 1, BUFFER, BUFFER), .wanted = SAME(-ENOTSOCK)},
    {ROW(setsockopt, FD, 1, 1, BUFFER, 4), .wanted = SAME(-ENOTSOCK)},
    {ROW(sendto, FD, BUFFER, 8, 0, 0, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(recvfrom, FD, BUFFER, 8, 0, 0, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(sendmsg, FD, BUFFER, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(recvmsg, FD, BUFFER, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(sendmmsg, FD, BUFFER, 1, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(recvmmsg, FD, BUFFER, 1, 0, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(shutdown, FD, 0), .wanted = SAME(-ENOTSOCK)},
    {ROW(mq_timedsend, FD, BUFFER, 1, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(mq_timedreceive, FD, BUFFER, 1, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(mq_notify, FD, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(mq_getsetattr, FD, 0, BUFFER), .wanted = SAME(ANY_ERROR)},
    {ROW(setns, FD, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(pidfd_send_signal, FD, 0, 0, 0), .wanted = SAME(-EBADF)},
    {ROW(pidfd_getfd, FD, 0, 0), .wanted = SAME(-EBADF)},
    {ROW(process_madvise, FD, PARTS, 1, 4, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(process_mrelease, FD, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(io_uring_enter, FD, 0, 0, 0, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(io_uring_register, FD, 1, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(open_tree, FD, NAME, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(move_mount, FD, NAME, FD, NAME, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(mount_setattr, FD, NAME, 0xffff0000, BUFFER, 32), .wanted = SAME(ANY_ERROR)},
    {ROW(fsconfig, FD, 0, NAME, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(fsmount, FD, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(fspick, FD, NAME, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(quotactl_fd, FD, 0, 0, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(landlock_add_rule, FD, 1, BUFFER, 0), .wanted = SAME(ANY_ERROR)},
    {ROW(landlock_restrict_self, FD, 0), .wanted = SAME(ANY_ERROR)},
    /* Descriptors as numbers. */
    {ROW(dup, FD), .wanted = SAME(OK)},
    {ROW(dup2, FD, FD), .wanted = SAME(OK)},
    {ROW(dup3, FD, FD, 0), .wanted = SAME(-EINVAL)},
};
/* clang-format on */

/* Calls with a descriptor that need no row, each with its reason. */
static const char elsewhere[] =
    " close close_range "	   /* tests/preload/test_files.c */
    " mmap "			   /* tests/rules/test_objects.c */
    " poll ppoll select pselect6 " /* the descriptor is in a structure: test_readiness */
    " io_submit io_getevents io_cancel io_setup io_destroy io_pgetevents " /* the same */
    " kcmp cachestat " /* asks of the table of descriptors and of the page cache alone */
    " perf_event_open bpf waitid "		  /* no file is reached through it */
    " finit_module kexec_file_load swapon acct "; /* would change the machine */

/* Calls without a descriptor. */
static const char without[] =
    " open stat lstat mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn access pipe "
    "sched_yield mremap msync mincore madvise shmget shmat shmctl pause nanosleep getitimer alarm "
    "setitimer getpid socket clone fork vfork execve exit wait4 kill uname semget semop semctl "
    "shmdt msgget msgsnd msgrcv msgctl truncate getcwd chdir rename mkdir rmdir creat link unlink "
    "symlink readlink chmod chown lchown umask gettimeofday getrlimit getrusage sysinfo times "
    "ptrace getuid syslog getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid "
    "setreuid setregid getgroups setgroups setresuid getresuid setresgid getresgid getpgid "
    "setfsuid setfsgid getsid capget capset rt_sigpending rt_sigtimedwait rt_sigqueueinfo "
    "rt_sigsuspend sigaltstack utime mknod uselib personality ustat statfs sysfs getpriority "
    "setpriority sched_setparam sched_getparam sched_setscheduler sched_getscheduler "
    "sched_get_priority_max sched_get_priority_min sched_rr_get_interval mlock munlock mlockall "
    "munlockall vhangup modify_ldt pivot_root _sysctl prctl arch_prctl adjtimex setrlimit chroot "
    "sync settimeofday mount umount2 swapoff reboot sethostname setdomainname iopl ioperm "
    "create_module init_module delete_module get_kernel_syms query_module quotactl nfsservctl "
    "getpmsg putpmsg afs_syscall tuxcall security gettid setxattr lsetxattr getxattr lgetxattr "
    "listxattr llistxattr removexattr lremovexattr tkill time futex sched_setaffinity "
    "sched_getaffinity set_thread_area get_thread_area lookup_dcookie epoll_create epoll_ctl_old "
    "epoll_wait_old remap_file_pages set_tid_address restart_syscall semtimedop timer_create "
    "timer_settime timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime "
    "clock_getres clock_nanosleep exit_group tgkill utimes vserver mbind set_mempolicy "
    "get_mempolicy mq_open mq_unlink kexec_load add_key request_key keyctl ioprio_set ioprio_get "
    "inotify_init migrate_pages unshare set_robust_list get_robust_list move_pages "
    "timerfd_create eventfd eventfd2 epoll_create1 pipe2 inotify_init1 rt_tgsigqueueinfo "
    "fanotify_init prlimit64 clock_adjtime getcpu process_vm_readv process_vm_writev "
    "sched_setattr sched_getattr seccomp getrandom memfd_create userfaultfd membarrier mlock2 "
    "pkey_mprotect pkey_alloc pkey_free rseq io_uring_setup fsopen pidfd_open clone3 "
    "landlock_create_ruleset memfd_secret futex_waitv set_mempolicy_home_node socketpair "
    "map_shadow_stack futex_wake futex_wait futex_requeue lsm_get_self_attr lsm_set_self_attr "
    "lsm_list_modules mseal uretprobe uprobe statmount listmount rseq_slice_yield "
    /* On a path, by a directory's descriptor: the row of open_tree stands for it. */
    "open_tree_attr ";

static bool lists(const char *names, const char *name)
{
	char padded[80];

	snprintf(padded, sizeof(padded), " %s ", name);
	return strstr(names, padded) != NULL;
}

/* No call of the kernel's table is forgotten. */
static void test_every_call_is_known(void)
{
	static const char *const headers[] = {"/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
					      "/usr/include/asm/unistd_64.h"};
	FILE *header = NULL;
	unsigned int seen = 0;
	char line[128], name[64];

	for (size_t i = 0; !header && i < sizeof(headers) / sizeof(headers[0]); i++)
		header = fopen(headers[i], "r");
	if (!header)
		check_skip("no header of the kernel's table");
	while (fgets(line, sizeof(line), header)) {
		bool found;

		if (sscanf(line, "#define __NR_%63s", name) != 1)
			continue;
		found = lists(elsewhere, name) || lists(without, name);
		for (size_t i = 0; !found && i < sizeof(rows) / sizeof(rows[0]); i++)
			found = !strcmp(rows[i].name, name);
		if (!found)
			FAIL("the kernel has a call %s: does it take a descriptor?", name);
		seen++;
	}
	fclose(header);
	CHECK(seen > 300);
}

struct props {
	int pipes[2], file, epoll;
	char buffer[PAGE];
	struct iovec part;
};

static void props_make(struct props *props)
{
	memset(props, 0, sizeof(*props));
	CHECK_OK(pipe(props->pipes));
	CHECK_EQ(write(props->pipes[1], "12345678", 8), 8);
	props->file = memfd_create("a file", MFD_CLOEXEC);
	CHECK_OK(ftruncate(props->file, PAGE));
	props->epoll = epoll_create1(EPOLL_CLOEXEC);
	props->part = (struct iovec){props->buffer, 8};
}

static void props_end(struct props *props)
{
	close(props->pipes[0]);
	close(props->pipes[1]);
	close(props->file);
	close(props->epoll);
}

static long argument(long value, int fd, struct props *props)
{
	switch (value) {
	case FD:
		return fd;
	case PIPE_IN:
		return props->pipes[0];
	case PIPE_OUT:
		return props->pipes[1];
	case FILE_FD:
		return props->file;
	case EPOLL:
		return props->epoll;
	case BUFFER:
		return (long)props->buffer;
	case PARTS:
		return (long)&props->part;
	case EMPTY:
		return (long)"";
	case NAME:
		return (long)"user.x";
	case ODD_NAME:
		return (long)"odd";
	case HANDLE:
		memset(props->buffer, 0, sizeof(props->buffer));
		props->buffer[0] = 64;
		return (long)props->buffer;
	default:
		return value;
	}
}

/* How a call is made: by libc's syscall(), or by an instruction of this program's own. */
enum way { BY_LIBC, BY_INSTRUCTION };

static long call(enum way way, long nr, const long args[6])
{
	register long fourth __asm__("r10") = args[3];
	register long fifth __asm__("r8") = args[4];
	register long sixth __asm__("r9") = args[5];
	long result;

	if (way == BY_LIBC) {
		result = syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
		return result < 0 ? -errno : result;
	}
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(fourth),
			   "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}

static long answer_of(const struct row *row, int fd, enum way way)
{
	struct props props;
	long args[6], result;

	props_make(&props);
	for (int i = 0; i < 6; i++)
		args[i] = argument(row->args[i], fd, &props);
	result = call(way, row->nr, args);
	/* What made a descriptor. */
	if (result >= 0 && row->nr == SYS_dup)
		close((int)result);
	props_end(&props);
	return result;
}

static bool is_wanted(long got, long wanted)
{
	/* Not every kernel has every call. */
	if (wanted == ANY_ERROR || got == -ENOSYS)
		return got < 0;
	return wanted == OK ? got >= 0 : got == wanted;
}

/* Not every kernel has every flag, either. */
static bool kernel_knows(const struct row *row)
{
	struct file_handle none = {0};
	int mount;

	if (row->nr != SYS_name_to_handle_at || !(row->args[4] & HANDLE_FID))
		return true;
	return !syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &none, &mount, HANDLE_FID) ||
	       errno != EINVAL;
}

static void check_every_call(enum way way)
{
	unsigned int wrong = 0;

	objects_open(descriptors);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!kernel_knows(&rows[i]))
			continue;
		for (int object = 0; object < OBJECTS; object++) {
			long got = answer_of(&rows[i], descriptors[object], way);

			if (is_wanted(got, rows[i].wanted[object]))
				continue;
			dprintf(STDERR_FILENO, "  row %zu, %s on %s: %ld, not %ld\n", i,
				rows[i].name, object_names[object], got, rows[i].wanted[object]);
			wrong++;
		}
	}
	CHECK_EQ(wrong, 0);
}

static void test_every_call_on_every_object(void)
{
	check_every_call(BY_LIBC);
}

static void test_every_call_by_an_instruction(void)
{
	check_every_call(BY_INSTRUCTION);
}

static void test_status(void)
{
	static const unsigned int modes[OBJECTS] = {S_IFCHR, 0600, 0600, S_IFREG | 0600, 0600};
	static const off_t sizes[OBJECTS] = {0, 0, 0, 4 * PAGE, 0};

	objects_open(descriptors);
	for (int object = 0; object < OBJECTS; object++) {
		struct statx extended;
		struct statfs system;
		struct stat status;

		CHECK_OK(fstat(descriptors[object], &status));
		CHECK_EQ(status.st_mode & (object == KVM ? S_IFMT : ~0u), modes[object]);
		CHECK_EQ(status.st_size, sizes[object]);
		CHECK_EQ(status.st_rdev, object == KVM ? makedev(10, 232) : 0);
		CHECK_EQ(status.st_nlink, 1);
		CHECK_OK(statx(descriptors[object], "", AT_EMPTY_PATH, STATX_ALL, &extended));
		CHECK_EQ(extended.stx_mode, status.st_mode);
		CHECK_EQ(extended.stx_size, sizes[object]);
		CHECK_OK(fstatfs(descriptors[object], &system));
		if (object == KVM)
			continue;
		CHECK_EQ(system.f_type, object == GMEM ? 0x474d454d : 0x09041934);
		CHECK_EQ(system.f_flags, object == GMEM ? 0x28 : 0x20);
		/* Such a file system keeps no birth, and no attributes of its own. */
		CHECK_EQ(extended.stx_mask & STATX_BTIME, 0);
		CHECK_EQ(extended.stx_btime.tv_sec, 0);
		CHECK_EQ(extended.stx_attributes_mask &
			     (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP),
			 0);
	}
}

/* What do_vfs_ioctl does is the kernel's own, and shows. */
static void test_flags_of_a_descriptor(void)
{
	static const int flags[OBJECTS] = {O_RDWR, O_RDWR, O_RDWR, O_RDWR, O_RDONLY};

	objects_open(descriptors);
	for (int object = 0; object < OBJECTS; object++) {
		int fd = descriptors[object], on = 1;

		CHECK_EQ(CHECK_OK(fcntl(fd, F_GETFL)) & O_ACCMODE, flags[object]);
		CHECK_OK(ioctl(fd, FIOCLEX));
		CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
		CHECK_OK(ioctl(fd, FIONCLEX));
		CHECK_EQ(fcntl(fd, F_GETFD), 0);
		CHECK_OK(ioctl(fd, FIONBIO, &on));
		CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
		CHECK_OK(fcntl(fd, F_SETFL, O_APPEND));
		CHECK_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK), O_APPEND);
	}
}

/* Through /proc an object is no file: it has the name of KVM's, and is not opened. */
static void test_links(void)
{
	static const char *const names[OBJECTS] = {NULL, "anon_inode:kvm-vm",
						   "anon_inode:kvm-vcpu:0", "/[kvm-gmem] (deleted)",
						   "anon_inode:kvm-vm-stats"};

	objects_open(descriptors);
	for (int object = VM; object < OBJECTS; object++) {
		char path[64], name[64] = "";
		struct stat status;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptors[object]);
		CHECK_EQ(readlink(path, name, sizeof(name)), strlen(names[object]));
		CHECK(!strcmp(name, names[object]));
		CHECK_ERR(open(path, O_RDWR), ENXIO);
		CHECK_ERR(open(path, O_RDWR | O_TRUNC), ENXIO);
		CHECK_ERR(truncate(path, 0), EINVAL);
		CHECK_ERR(chmod(path, 0600), object == GMEM ? EINVAL : EOPNOTSUPP);
		CHECK_ERR(fchownat(AT_FDCWD, path, -1, -1, 0),
			  object == GMEM ? EINVAL : EOPNOTSUPP);
		CHECK_ERR(utimensat(AT_FDCWD, path, NULL, 0), object == GMEM ? EINVAL : EOPNOTSUPP);
		CHECK_OK(stat(path, &status));
		CHECK_EQ(status.st_size, object == GMEM ? 4 * PAGE : 0);
	}
}

static void test_readiness(void)
{
	objects_open(descriptors);
	for (int object = 0; object < OBJECTS; object++) {
		struct pollfd one = {descriptors[object], POLLIN | POLLOUT, 0};

		CHECK_EQ(poll(&one, 1, 0), 1);
		CHECK_EQ(one.revents, POLLIN | POLLOUT);
	}
}

/* The guest's private bytes are behind none of it. */
static void test_no_secret(void)
{
	static struct vm vm;
	static struct vcpu vcpu;
	uint64_t bytes[2] = {0};
	char path[64];
	int fd;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	fd = vm_gmem(&vm, 4 * PAGE, 0);
	CHECK_OK(REGION(&vm, .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 0x10000000,
			.memory_size = 4 * PAGE,
			.userspace_addr = (uintptr_t)memory_alloc(4 * PAGE),
			.guest_memfd = (uint32_t)fd));
	CHECK_OK(vm_set_attributes(&vm, 0x10000000, 4 * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	guest_store(&vcpu, 0x10000000, 0x5ec2e7);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK(open(path, O_RDONLY) == -1);
	for (int raw = 0; raw < 2; raw++) {
		long got = -1;

		if (raw)
			__asm__ volatile("syscall"
					 : "=a"(got)
					 : "0"((long)SYS_read), "D"((long)fd), "S"(bytes),
					   "d"(sizeof(bytes))
					 : "rcx", "r11", "memory");
		else
			got = pread(fd, bytes, sizeof(bytes), 0);
		CHECK(got <= 0 || (bytes[0] != 0x5ec2e7 && bytes[1] != 0x5ec2e7));
	}
	CHECK_EQ(guest_load(&vcpu, 0x10000000), 0x5ec2e7);
}

/* A child's call on what it inherited reaches its parent's memory. */
static void test_a_child_punches(void)
{
	static struct vm vm;
	static struct vcpu vcpu;
	const int punch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
	int fd, status;
	pid_t child;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	fd = vm_gmem(&vm, 4 * PAGE, 0);
	CHECK_OK(REGION(&vm, .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 0x10000000,
			.memory_size = 4 * PAGE,
			.userspace_addr = (uintptr_t)memory_alloc(4 * PAGE),
			.guest_memfd = (uint32_t)fd));
	CHECK_OK(vm_set_attributes(&vm, 0x10000000, 4 * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	guest_store(&vcpu, 0x10000000, 7);
	guest_store(&vcpu, 0x10000000 + PAGE, 8);
	child = fork();
	if (child == 0) {
		pid_t grandchild = fork();
		int answers = 0;

		if (grandchild == 0)
			_exit(fallocate(fd, FALLOC_FL_KEEP_SIZE, PAGE, PAGE) != 0);
		answers |= waitpid(grandchild, &status, 0) != grandchild || status;
		answers |= fallocate(fd, punch, 0, PAGE) != 0;
		answers |= fallocate(fd, punch, 0, PAGE + 1) != -1 || errno != EINVAL;
		_exit(answers);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(guest_load(&vcpu, 0x10000000), 0);
	CHECK_EQ(guest_load(&vcpu, 0x10000000 + PAGE), 8);
}

/* The last descriptor of a guest_memfd is a child's: its close takes the memory from the guest. */
static void test_a_child_closes_last(void)
{
	static struct vm vm;
	static struct vcpu vcpu;
	int fd, gate[2], status;
	pid_t child;
	char byte;

	machine_open(&vm, &vcpu, KVM_X86_SW_PROTECTED_VM);
	fd = vm_gmem(&vm, 4 * PAGE, 0);
	CHECK_OK(REGION(&vm, .slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = 0x10000000,
			.memory_size = 4 * PAGE,
			.userspace_addr = (uintptr_t)memory_alloc(4 * PAGE),
			.guest_memfd = (uint32_t)fd));
	CHECK_OK(vm_set_attributes(&vm, 0x10000000, 4 * PAGE, KVM_MEMORY_ATTRIBUTE_PRIVATE));
	guest_store(&vcpu, 0x10000000, 7);
	CHECK_OK(pipe(gate));
	child = fork();
	if (child == 0) {
		close(gate[1]);
		(void)!read(gate[0], &byte, 1);
		_exit(0);
	}
	CHECK_OK(close(fd));
	CHECK_EQ(guest_load(&vcpu, 0x10000000), 7);
	close(gate[1]);
	CHECK_EQ(waitpid(child, &status, 0), child);
	for (int tries = 0; tries < 5000; tries++) {
		struct outcome outcome = guest_try_load(&vcpu, 0x10000000);

		if (outcome.end == END_MEMORY_FAULT)
			return;
		usleep(1000);
	}
	FAIL("the guest still has its memory");
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(test_every_call_is_known),
	    TEST(test_every_call_on_every_object),
	    TEST(test_every_call_by_an_instruction),
	    TEST(test_status),
	    TEST(test_flags_of_a_descriptor),
	    TEST(test_links),
	    TEST(test_readiness),
	    TEST(test_no_secret),
	    TEST(test_a_child_punches),
	    TEST(test_a_child_closes_last),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
