/* Calls of interposed functions, each with one pointer that may be bad. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"
#include "tests/preload/pointer_calls.h"

char room[4][4096] __attribute__((aligned(4096)));
char *const no_strings[1] = {NULL};

/* By the instruction: libc's syscall() is interposed, too. */
static long raw_call(long number, const unsigned long args[6])
{
	register unsigned long fourth __asm__("r10") = args[3];
	register unsigned long fifth __asm__("r8") = args[4];
	register unsigned long sixth __asm__("r9") = args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(fourth),
			   "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	if (result >= 0 || result < -4095)
		return result;
	errno = (int)-result;
	return -1;
}
#define WORD(value) ((unsigned long)(value))
#define MAKE(number, a, b, c, d, e, f, ...) \
	raw_call(number,                    \
		 (const unsigned long[6]){WORD(a), WORD(b), WORD(c), WORD(d), WORD(e), WORD(f)})
#define syscall(number, ...) MAKE(number, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* A function with the kernel's own arguments, as far as they go: what is too many stays unread. */
#define PLAIN(name, number, ...)                                                              \
	long name(void *function, const struct arguments *arguments)                          \
	{                                                                                     \
		const unsigned long a[6] = {__VA_ARGS__};                                     \
		typedef int plain(unsigned long, unsigned long, unsigned long, unsigned long, \
				  unsigned long, unsigned long);                              \
		return function ? ((plain *)function)(a[0], a[1], a[2], a[3], a[4], a[5])     \
				: raw_call(number, a);                                        \
	}

#define CALL(type, ...) (((type)function)(__VA_ARGS__))
#define PATH (arguments->p[0])
#define SECOND (arguments->p[1])

long call_open(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, int, ...), PATH, O_RDONLY)
			: syscall(SYS_open, PATH, O_RDONLY, 0);
}

long call_openat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, ...), AT_FDCWD, PATH, O_RDONLY)
			: syscall(SYS_openat, AT_FDCWD, PATH, O_RDONLY, 0);
}

long call_creat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, mode_t), PATH, 0600)
			: syscall(SYS_creat, PATH, 0600);
}

long call_fopen(void *function, const struct arguments *arguments)
{
	return CALL(FILE * (*)(const char *, const char *), PATH, SECOND) ? 0 : -1;
}

long call_fdopen(void *function, const struct arguments *arguments)
{
	return CALL(FILE * (*)(int, const char *), arguments->fd, PATH) ? 0 : -1;
}

long call_access(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, int), PATH, R_OK)
			: syscall(SYS_access, PATH, R_OK);
}

long call_faccessat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, int), AT_FDCWD, PATH, R_OK, 0)
			: syscall(SYS_faccessat, AT_FDCWD, PATH, R_OK);
}

long call_stat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, void *), PATH, SECOND)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

long call_fstatat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, void *, int), AT_FDCWD, PATH, SECOND, 0)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

long call_xstat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, void *), 1, PATH, SECOND)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

long call_fxstatat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, int, const char *, void *, int), 1, AT_FDCWD, PATH,
			       SECOND, 0)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

long call_statx(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, unsigned int, void *), AT_FDCWD,
			       PATH, 0, STATX_ALL, SECOND)
			: syscall(SYS_statx, AT_FDCWD, PATH, 0, STATX_ALL, SECOND);
}

long call_realpath(void *function, const struct arguments *arguments)
{
	return CALL(char *(*)(const char *, char *, size_t), PATH, (char *)SECOND, 4096) ? 0 : -1;
}

long call_canonicalize(void *function, const struct arguments *arguments)
{
	return CALL(char *(*)(const char *), PATH) ? 0 : -1;
}

long call_opendir(void *function, const struct arguments *arguments)
{
	return CALL(DIR * (*)(const char *), PATH) ? 0 : -1;
}

long call_chdir(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *), PATH) : syscall(SYS_chdir, PATH);
}

long call_chroot(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *), PATH) : syscall(SYS_chroot, PATH);
}

long call_mount(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, const char *, const char *, unsigned long,
				       const void *),
			       PATH, SECOND, "tmpfs", 0, NULL)
			: syscall(SYS_mount, PATH, SECOND, "tmpfs", 0, NULL);
}

long call_umount(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, int), PATH, 0) : syscall(SYS_umount2, PATH, 0);
}

long call_ioctl(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, unsigned long, ...), arguments->pipe, FIONREAD, PATH)
			: syscall(SYS_ioctl, arguments->pipe, FIONREAD, PATH);
}

long call_read(void *function, const struct arguments *arguments)
{
	return function
		   ? CALL(ssize_t(*)(int, void *, size_t, size_t), arguments->fd, PATH, 100, 4096)
		   : syscall(SYS_read, arguments->fd, PATH, 100);
}

long call_pread(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, void *, size_t, off_t, size_t), arguments->fd, PATH,
			       100, 0, 4096)
			: syscall(SYS_pread64, arguments->fd, PATH, 100, 0);
}

long call_write(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, const void *, size_t), arguments->fd, PATH, 8)
			: syscall(SYS_write, arguments->fd, PATH, 8);
}

long call_pwrite(void *function, const struct arguments *arguments)
{
	return function
		   ? CALL(ssize_t(*)(int, const void *, size_t, off_t), arguments->fd, PATH, 8, 0)
		   : syscall(SYS_pwrite64, arguments->fd, PATH, 8, 0);
}

/* The vector itself, and the buffer in one. */
static long vector(long number, void *function, const struct arguments *arguments)
{
	struct iovec good = {SECOND, 100};
	const struct iovec *parts = PATH == room[0] ? &good : PATH;

	return function ? CALL(ssize_t(*)(int, const struct iovec *, int), arguments->fd, parts, 1)
			: syscall(number, arguments->fd, parts, 1);
}

static long positioned(long number, void *function, const struct arguments *arguments)
{
	struct iovec good = {SECOND, 100};
	const struct iovec *parts = PATH == room[0] ? &good : PATH;

	return function ? CALL(ssize_t(*)(int, const struct iovec *, int, off_t, int),
			       arguments->fd, parts, 1, 0, 0)
			: syscall(number, arguments->fd, parts, 1, 0, 0, 0);
}

long call_preadv(void *function, const struct arguments *arguments)
{
	return positioned(SYS_preadv2, function, arguments);
}

long call_pwritev(void *function, const struct arguments *arguments)
{
	return positioned(SYS_pwritev2, function, arguments);
}

long call_readv(void *function, const struct arguments *arguments)
{
	return vector(SYS_readv, function, arguments);
}

long call_writev(void *function, const struct arguments *arguments)
{
	return vector(SYS_writev, function, arguments);
}

long call_vmsplice(void *function, const struct arguments *arguments)
{
	struct iovec good = {SECOND, 100};
	const struct iovec *parts = PATH == room[0] ? &good : PATH;

	return function ? CALL(ssize_t(*)(int, const struct iovec *, size_t, unsigned int),
			       arguments->fd, parts, 1, 0)
			: syscall(SYS_vmsplice, arguments->fd, parts, 1, 0);
}

long call_getrandom(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(void *, size_t, unsigned int), PATH, 8, 0)
			: syscall(SYS_getrandom, PATH, 8, 0);
}

/* send() and recv() take no notice of the last two arguments. */
static long bytes_of(long number, void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, void *, size_t, int, void *, void *), arguments->fd,
			       PATH, 8, MSG_DONTWAIT, NULL, NULL)
			: syscall(number, arguments->fd, PATH, 8, MSG_DONTWAIT, NULL, NULL);
}

long call_send(void *function, const struct arguments *arguments)
{
	return bytes_of(SYS_sendto, function, arguments);
}

long call_recv(void *function, const struct arguments *arguments)
{
	return bytes_of(SYS_recvfrom, function, arguments);
}

/* Fortified programs say how much room there is. */
long call_recv_checked(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, void *, size_t, size_t, int, void *, void *),
			       arguments->fd, PATH, 8, 4096, MSG_DONTWAIT, NULL, NULL)
			: syscall(SYS_recvfrom, arguments->fd, PATH, 8, MSG_DONTWAIT, NULL, NULL);
}

/* For one message there are no more arguments than its flags. */
static long messages(long number, void *function, const struct arguments *arguments)
{
	int is_one = number == SYS_sendmsg || number == SYS_recvmsg;
	unsigned long third = is_one ? MSG_DONTWAIT : 1;

	return function ? (int)CALL(ssize_t(*)(int, void *, unsigned long, int, void *),
				    arguments->fd, PATH, third, MSG_DONTWAIT, NULL)
			: syscall(number, arguments->fd, PATH, third, MSG_DONTWAIT, NULL);
}

long call_sendmsg(void *function, const struct arguments *arguments)
{
	return messages(SYS_sendmsg, function, arguments);
}

long call_recvmsg(void *function, const struct arguments *arguments)
{
	return messages(SYS_recvmsg, function, arguments);
}

long call_sendmmsg(void *function, const struct arguments *arguments)
{
	return messages(SYS_sendmmsg, function, arguments);
}

long call_recvmmsg(void *function, const struct arguments *arguments)
{
	return messages(SYS_recvmmsg, function, arguments);
}

/* Between our own buffers; one of the lists may be bad. */
static long with_process(long number, void *function, const struct arguments *arguments)
{
	struct iovec remote = {room[3], 8};

	return function ? CALL(ssize_t(*)(pid_t, void *, unsigned long, struct iovec *,
					  unsigned long, unsigned long),
			       getpid(), PATH, 1, &remote, 1, 0)
			: syscall(number, getpid(), PATH, 1, &remote, 1, 0);
}

long call_process_read(void *function, const struct arguments *arguments)
{
	return with_process(SYS_process_vm_readv, function, arguments);
}

long call_process_write(void *function, const struct arguments *arguments)
{
	return with_process(SYS_process_vm_writev, function, arguments);
}

/* The descriptor is what is sent: a file's number for the one, a pipe for the other. */
long call_sendfile(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, int, off_t *, size_t), arguments->pipe,
			       arguments->fd, PATH, 8)
			: syscall(SYS_sendfile, arguments->pipe, arguments->fd, PATH, 8);
}

long call_splice(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, off_t *, int, off_t *, size_t, unsigned int),
			       arguments->fd, PATH, arguments->pipe, NULL, 8, 0)
			: syscall(SYS_splice, arguments->fd, PATH, arguments->pipe, NULL, 8, 0);
}

long call_futimens(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const struct timespec *), arguments->fd, PATH)
			: syscall(SYS_utimensat, arguments->fd, NULL, PATH, 0);
}

#define THIRD (arguments->p[2])
#define FD WORD(arguments->fd)
#define HERE WORD(AT_FDCWD)

PLAIN(call_fstat, SYS_fstat, FD, WORD(PATH))
PLAIN(call_fstatfs, SYS_fstatfs, FD, WORD(PATH))
PLAIN(call_fcntl, SYS_fcntl, FD, F_GETLK, WORD(PATH))
PLAIN(call_chmod, SYS_chmod, WORD(PATH), 0666)
PLAIN(call_fchmodat, SYS_fchmodat, HERE, WORD(PATH), 0666)
PLAIN(call_chown, SYS_chown, WORD(PATH), WORD(-1), WORD(-1))
PLAIN(call_fchownat, SYS_fchownat, HERE, WORD(PATH), WORD(-1), WORD(-1), 0)
PLAIN(call_truncate, SYS_truncate, WORD(PATH), 0)
PLAIN(call_utime, SYS_utime, WORD(PATH), WORD(SECOND))
PLAIN(call_utimes, SYS_utimes, WORD(PATH), WORD(SECOND))
PLAIN(call_utimensat, SYS_utimensat, HERE, WORD(PATH), WORD(SECOND), 0)
PLAIN(call_futimesat, SYS_futimesat, HERE, WORD(PATH), WORD(SECOND))
PLAIN(call_setxattr, SYS_setxattr, WORD(PATH), WORD(SECOND), WORD(THIRD), 1, 0)
PLAIN(call_getxattr, SYS_getxattr, WORD(PATH), WORD(SECOND), WORD(THIRD), 1)
PLAIN(call_removexattr, SYS_removexattr, WORD(PATH), WORD(SECOND))
PLAIN(call_fsetxattr, SYS_fsetxattr, FD, WORD(PATH), WORD(SECOND), 1, 0)
PLAIN(call_fgetxattr, SYS_fgetxattr, FD, WORD(PATH), WORD(SECOND), 1)
PLAIN(call_fremovexattr, SYS_fremovexattr, FD, WORD(PATH))
PLAIN(call_flistxattr, SYS_flistxattr, FD, WORD(PATH), 8)
PLAIN(call_handle, SYS_name_to_handle_at, HERE, WORD(PATH), WORD(SECOND), WORD(THIRD), 0)
PLAIN(call_readlink, SYS_readlink, WORD(PATH), WORD(SECOND), 64)
PLAIN(call_readlinkat, SYS_readlinkat, HERE, WORD(PATH), WORD(SECOND), 64)
PLAIN(call_sigaltstack, SYS_sigaltstack, WORD(PATH), WORD(SECOND))
PLAIN(call_copy, SYS_copy_file_range, FD, WORD(PATH), FD, WORD(SECOND), 8, 0)

long call_fxstat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, int, void *), 1, arguments->fd, PATH)
			: syscall(SYS_fstat, arguments->fd, PATH);
}

long call_futimes(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const struct timeval *), arguments->fd, PATH)
			: syscall(SYS_futimesat, arguments->fd, NULL, PATH);
}

long call_tcgetattr(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(int, void *), arguments->fd, PATH);
}

long call_execve(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, char *const *, char *const *), PATH, SECOND,
			       arguments->p[2])
			: syscall(SYS_execve, PATH, SECOND, arguments->p[2]);
}

/* A bad pointer inside a list, as an argument and as an assignment. */
long call_execve_lists(void *function, const struct arguments *arguments)
{
	char *const list[2][2] = {{PATH, NULL}, {SECOND, NULL}};
	static const char path[] = "/bin/true";

	return function ? CALL(int (*)(const char *, char *const *, char *const *), path, list[0],
			       list[1])
			: syscall(SYS_execve, path, list[0], list[1]);
}

long call_execv(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, char *const *), PATH, SECOND)
			: syscall(SYS_execve, PATH, SECOND, no_strings);
}

long call_execvpe(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(const char *, char *const *, char *const *), PATH, SECOND,
		    arguments->p[2]);
}

long call_execl(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(const char *, const char *, ...), PATH, SECOND, NULL, no_strings);
}

long call_fexecve(void *function, const struct arguments *arguments)
{
	int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);

	return CALL(int (*)(int, char *const *, char *const *), fd, PATH, SECOND);
}

long call_posix_spawn(void *function, const struct arguments *arguments)
{
	pid_t pid;
	int status;
	int error =
	    CALL(int (*)(pid_t *, const char *, void *, void *, char *const *, char *const *), &pid,
		 PATH, NULL, NULL, SECOND, arguments->p[2]);

	/* libc looks at a name in the child, which shares our memory: its death counts as ours. */
	if (!error && waitpid(pid, &status, 0) == pid && WIFSIGNALED(status))
		raise(WTERMSIG(status));
	errno = error;
	return error ? -1 : 0;
}

long call_mmap(void *function, const struct arguments *arguments)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	return function ? (long)CALL(void *(*)(void *, size_t, int, int, int, off_t), PATH, 4096,
				     PROT_READ, flags, -1, 0)
			: syscall(SYS_mmap, PATH, 4096, PROT_READ, flags, -1, 0);
}

long call_munmap(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, size_t), PATH, 4096)
			: syscall(SYS_munmap, PATH, 4096);
}

long call_mremap(void *function, const struct arguments *arguments)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	return function ? (long)CALL(void *(*)(void *, size_t, size_t, int, ...), PATH, 4096, 4096,
				     flags, SECOND)
			: syscall(SYS_mremap, PATH, 4096, 4096, flags, SECOND);
}

long call_mprotect(void *function, const struct arguments *arguments)
{
	return function
		   ? CALL(int (*)(void *, size_t, int, int), PATH, 4096, PROT_READ | PROT_WRITE, -1)
		   : syscall(SYS_mprotect, PATH, 4096, PROT_READ | PROT_WRITE);
}

long call_madvise(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, size_t, int), PATH, 4096, MADV_WILLNEED)
			: syscall(SYS_madvise, PATH, 4096, MADV_WILLNEED);
}

long call_brk(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(void *), PATH);
}

long call_shmat(void *function, const struct arguments *arguments)
{
	int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
	long result = function ? (long)CALL(void *(*)(int, const void *, int), id, PATH, 0)
			       : syscall(SYS_shmat, id, PATH, 0);
	int error = errno;

	shmctl(id, IPC_RMID, NULL);
	errno = error;
	return result;
}

long call_shmdt(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const void *), PATH) : syscall(SYS_shmdt, PATH);
}

long call_sigaction(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, void *, void *), SIGUSR1, PATH, SECOND)
			: syscall(SYS_rt_sigaction, SIGUSR1, PATH, SECOND, 8);
}

long call_sigprocmask(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, void *, void *), SIG_BLOCK, PATH, SECOND)
			: syscall(SYS_rt_sigprocmask, SIG_BLOCK, PATH, SECOND, 8);
}

long call_pthread_sigmask(void *function, const struct arguments *arguments)
{
	if (!function)
		return call_sigprocmask(NULL, arguments);
	errno = CALL(int (*)(int, void *, void *), SIG_BLOCK, PATH, SECOND);
	return errno ? -1 : 0;
}

long call_execveat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, char *const *, char *const *, int),
			       AT_FDCWD, PATH, SECOND, arguments->p[2], 0)
			: syscall(SYS_execveat, AT_FDCWD, PATH, SECOND, arguments->p[2], 0);
}

static const struct timespec no_time;

long call_ppoll(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, nfds_t, const struct timespec *, const void *), NULL,
			       0, &no_time, PATH)
			: syscall(SYS_ppoll, NULL, 0, &no_time, PATH, 8);
}

long call_pselect(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(int, void *, void *, void *, const struct timespec *, const void *), 0,
		    NULL, NULL, NULL, &no_time, PATH);
}

long call_epoll_pwait(void *function, const struct arguments *arguments)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	return function
		   ? CALL(int (*)(int, void *, int, int, const void *), epoll, &event, 1, 0, PATH)
		   : syscall(SYS_epoll_pwait, epoll, &event, 1, 0, PATH, 8);
}

long call_epoll_pwait2(void *function, const struct arguments *arguments)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	return CALL(int (*)(int, void *, int, const struct timespec *, const void *), epoll, &event,
		    1, &no_time, PATH);
}
