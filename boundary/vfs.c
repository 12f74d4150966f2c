/* The table of calls that take a descriptor, as the kernel's VFS and KVM's files answer them. */
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

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
/* A row: the same for all objects, or /dev/kvm, VM, vCPU, guest_memfd, statistics. */
#define ALL(fds, cell)                                                           \
	{                                                                        \
		.fd_arguments = (fds), .cells = { cell, cell, cell, cell, cell } \
	}
#define EACH(fds, kvm, vm, vcpu, gmem, stats)                                  \
	{                                                                      \
		.fd_arguments = (fds), .cells = { kvm, vm, vcpu, gmem, stats } \
	}

#define FD0 1
#define FD1 2
#define FD2 4

/* clang-format off: one row a line, as far as it goes. */
const struct boundary_row boundary_rows[BOUNDARY_NR_MAX] = {
    [SYS_ioctl] =
	{
	    .fd_arguments = FD0,
	    .cells = {BY(device_ioctl), BY(device_ioctl), BY(device_ioctl), BY(device_ioctl),
		      BY(device_ioctl)},
	    .other = device_other_ioctl,
	},
    [SYS_fallocate] = ALL(FD0, BY(device_allocate)),

    /*                       /dev/kvm,   VM,         vCPU,       guest_memfd, statistics */
    [SYS_read] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_read)),
    [SYS_readv] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), BY(contents_readv)),
    [SYS_pread64] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), BY(contents_pread)),
    [SYS_preadv] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), BY(contents_preadv)),
    [SYS_preadv2] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), BY(contents_preadv)),
    /* Statistics are open for reading alone; that positions are, too, is looked at first. */
    [SYS_write] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EBADF)),
    [SYS_writev] = EACH(FD0, NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EINVAL), NO(EBADF)),
    [SYS_pwrite64] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE)),
    [SYS_pwritev] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE)),
    [SYS_pwritev2] = EACH(FD0, NO(EINVAL), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE), NO(ESPIPE)),
    [SYS_lseek] = EACH(FD0, BY(contents_seek), BY(contents_seek), BY(contents_seek), NO(ESPIPE),
		       BY(contents_seek)),

    [SYS_ftruncate] = ALL(FD0, NO(EINVAL)),
    [SYS_fchmod] = ALL(FD0, NO(EINVAL)),
    [SYS_fchown] = ALL(FD0, NO(EINVAL)),
    [SYS_utimensat] = ALL(FD0, BY(argument_times)),
    [SYS_sendfile] = ALL(FD0 | FD1, BY(argument_send_offset)),
    [SYS_splice] = ALL(FD0 | FD2, BY(argument_splice_offset)),
};
/* clang-format on */
