/* Calls of interposed functions, each with one pointer that may be bad. */
#ifndef QUIRE_TESTS_PRELOAD_POINTER_CALLS_H
#define QUIRE_TESTS_PRELOAD_POINTER_CALLS_H

#define POINTERS_MAX 4

/* Arguments of the call under test: pointers, one of them bad, and two descriptors. */
struct arguments {
	void *p[POINTERS_MAX];
	int fd, pipe;
};

/* A call of @function, which is ours, libc's, or NULL: make the raw system call. -1 and errno. */
typedef long caller(void *function, const struct arguments *arguments);

/* Pages to point to, and an empty list. */
extern char room[4][4096];
extern char *const no_strings[1];

caller call_open, call_openat, call_creat, call_fopen, call_fdopen, call_access, call_faccessat,
    call_stat, call_fstatat, call_xstat, call_fxstatat, call_statx, call_opendir, call_realpath,
    call_canonicalize, call_chdir, call_chroot, call_mount, call_umount, call_ioctl, call_read,
    call_pread, call_write, call_pwrite, call_preadv, call_pwritev, call_readv, call_writev,
    call_sendfile, call_splice, call_futimens, call_fstat, call_fstatfs, call_fcntl, call_chmod,
    call_fchmodat, call_chown, call_fchownat, call_truncate, call_utime, call_utimes,
    call_utimensat, call_futimesat, call_setxattr, call_getxattr, call_removexattr, call_fsetxattr,
    call_fgetxattr, call_fremovexattr, call_flistxattr, call_handle, call_readlink, call_readlinkat,
    call_copy, call_fxstat, call_futimes, call_tcgetattr, call_execve, call_execve_lists,
    call_execv, call_execvpe, call_execl, call_fexecve, call_posix_spawn, call_mmap, call_munmap,
    call_mremap, call_mprotect, call_madvise, call_brk, call_shmat, call_shmdt, call_sigaction,
    call_sigprocmask, call_sigaltstack, call_pthread_sigmask, call_execveat, call_ppoll,
    call_pselect, call_epoll_pwait, call_epoll_pwait2, call_send, call_recv, call_sendmsg,
    call_recv_checked, call_recvmsg, call_sendmmsg, call_recvmmsg, call_vmsplice, call_getrandom,
    call_process_read, call_process_write;

#endif
