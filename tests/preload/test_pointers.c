/*
 * Every interposed function answers NULL, unmapped and kernel addresses as the kernel does. The
 * list of functions is what the library defines: one without a row here fails. What the raw system
 * call answers is right; where there is none, what libc answers without us; and where libc itself
 * would die, EFAULT.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define POINTERS_MAX 4
#define FAILURES_MAX 40

/* Arguments of the call under test: pointers, one of them bad, and two descriptors. */
struct arguments {
	void *p[POINTERS_MAX];
	int fd, pipe;
};

/* A call of @function, which is ours, libc's, or NULL: make the raw system call. -1 and errno. */
typedef long caller(void *function, const struct arguments *arguments);

struct row {
	const char *names; /* separated by blanks */
	caller *call;
	const char *good[POINTERS_MAX];
	unsigned int has_raw;
};

static char room[4][4096] __attribute__((aligned(4096)));
static char *const no_strings[] = {NULL};
static unsigned int failures;
/* Calls by the instruction are the library's in this process; else the kernel's. */
static bool is_trapped;

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
	static long name(void *function, const struct arguments *arguments)                   \
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

static long call_open(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, int, ...), PATH, O_RDONLY)
			: syscall(SYS_open, PATH, O_RDONLY, 0);
}

static long call_openat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, ...), AT_FDCWD, PATH, O_RDONLY)
			: syscall(SYS_openat, AT_FDCWD, PATH, O_RDONLY, 0);
}

static long call_creat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, mode_t), PATH, 0600)
			: syscall(SYS_creat, PATH, 0600);
}

static long call_fopen(void *function, const struct arguments *arguments)
{
	return CALL(FILE * (*)(const char *, const char *), PATH, SECOND) ? 0 : -1;
}

static long call_fdopen(void *function, const struct arguments *arguments)
{
	return CALL(FILE * (*)(int, const char *), arguments->fd, PATH) ? 0 : -1;
}

static long call_access(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, int), PATH, R_OK)
			: syscall(SYS_access, PATH, R_OK);
}

static long call_faccessat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, int), AT_FDCWD, PATH, R_OK, 0)
			: syscall(SYS_faccessat, AT_FDCWD, PATH, R_OK);
}

static long call_stat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, void *), PATH, SECOND)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

static long call_fstatat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, void *, int), AT_FDCWD, PATH, SECOND, 0)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

static long call_xstat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, void *), 1, PATH, SECOND)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

static long call_fxstatat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, int, const char *, void *, int), 1, AT_FDCWD, PATH,
			       SECOND, 0)
			: syscall(SYS_newfstatat, AT_FDCWD, PATH, SECOND, 0);
}

static long call_statx(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, int, unsigned int, void *), AT_FDCWD,
			       PATH, 0, STATX_ALL, SECOND)
			: syscall(SYS_statx, AT_FDCWD, PATH, 0, STATX_ALL, SECOND);
}

static long call_opendir(void *function, const struct arguments *arguments)
{
	return CALL(DIR * (*)(const char *), PATH) ? 0 : -1;
}

static long call_chdir(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *), PATH) : syscall(SYS_chdir, PATH);
}

static long call_chroot(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *), PATH) : syscall(SYS_chroot, PATH);
}

static long call_ioctl(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, unsigned long, ...), arguments->pipe, FIONREAD, PATH)
			: syscall(SYS_ioctl, arguments->pipe, FIONREAD, PATH);
}

static long call_read(void *function, const struct arguments *arguments)
{
	return function
		   ? CALL(ssize_t(*)(int, void *, size_t, size_t), arguments->fd, PATH, 100, 4096)
		   : syscall(SYS_read, arguments->fd, PATH, 100);
}

static long call_pread(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, void *, size_t, off_t, size_t), arguments->fd, PATH,
			       100, 0, 4096)
			: syscall(SYS_pread64, arguments->fd, PATH, 100, 0);
}

static long call_write(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, const void *, size_t), arguments->fd, PATH, 8)
			: syscall(SYS_write, arguments->fd, PATH, 8);
}

static long call_pwrite(void *function, const struct arguments *arguments)
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

static long call_preadv(void *function, const struct arguments *arguments)
{
	return positioned(SYS_preadv2, function, arguments);
}

static long call_pwritev(void *function, const struct arguments *arguments)
{
	return positioned(SYS_pwritev2, function, arguments);
}

static long call_readv(void *function, const struct arguments *arguments)
{
	return vector(SYS_readv, function, arguments);
}

static long call_writev(void *function, const struct arguments *arguments)
{
	return vector(SYS_writev, function, arguments);
}

/* The descriptor is what is sent: a file's number for the one, a pipe for the other. */
static long call_sendfile(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, int, off_t *, size_t), arguments->pipe,
			       arguments->fd, PATH, 8)
			: syscall(SYS_sendfile, arguments->pipe, arguments->fd, PATH, 8);
}

static long call_splice(void *function, const struct arguments *arguments)
{
	return function ? CALL(ssize_t(*)(int, off_t *, int, off_t *, size_t, unsigned int),
			       arguments->fd, PATH, arguments->pipe, NULL, 8, 0)
			: syscall(SYS_splice, arguments->fd, PATH, arguments->pipe, NULL, 8, 0);
}

static long call_futimens(void *function, const struct arguments *arguments)
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
PLAIN(call_copy, SYS_copy_file_range, FD, WORD(PATH), FD, WORD(SECOND), 8, 0)

static long call_fxstat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, int, void *), 1, arguments->fd, PATH)
			: syscall(SYS_fstat, arguments->fd, PATH);
}

static long call_futimes(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const struct timeval *), arguments->fd, PATH)
			: syscall(SYS_futimesat, arguments->fd, NULL, PATH);
}

static long call_tcgetattr(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(int, void *), arguments->fd, PATH);
}

static long call_execve(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, char *const *, char *const *), PATH, SECOND,
			       arguments->p[2])
			: syscall(SYS_execve, PATH, SECOND, arguments->p[2]);
}

/* A bad pointer inside a list, as an argument and as an assignment. */
static long call_execve_lists(void *function, const struct arguments *arguments)
{
	char *const list[2][2] = {{PATH, NULL}, {SECOND, NULL}};
	static const char path[] = "/bin/true";

	return function ? CALL(int (*)(const char *, char *const *, char *const *), path, list[0],
			       list[1])
			: syscall(SYS_execve, path, list[0], list[1]);
}

static long call_execv(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const char *, char *const *), PATH, SECOND)
			: syscall(SYS_execve, PATH, SECOND, no_strings);
}

static long call_execvpe(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(const char *, char *const *, char *const *), PATH, SECOND,
		    arguments->p[2]);
}

static long call_execl(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(const char *, const char *, ...), PATH, SECOND, NULL, no_strings);
}

static long call_fexecve(void *function, const struct arguments *arguments)
{
	int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);

	return CALL(int (*)(int, char *const *, char *const *), fd, PATH, SECOND);
}

static long call_posix_spawn(void *function, const struct arguments *arguments)
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

static long call_mmap(void *function, const struct arguments *arguments)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	return function ? (long)CALL(void *(*)(void *, size_t, int, int, int, off_t), PATH, 4096,
				     PROT_READ, flags, -1, 0)
			: syscall(SYS_mmap, PATH, 4096, PROT_READ, flags, -1, 0);
}

static long call_munmap(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, size_t), PATH, 4096)
			: syscall(SYS_munmap, PATH, 4096);
}

static long call_mremap(void *function, const struct arguments *arguments)
{
	const int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	return function ? (long)CALL(void *(*)(void *, size_t, size_t, int, ...), PATH, 4096, 4096,
				     flags, SECOND)
			: syscall(SYS_mremap, PATH, 4096, 4096, flags, SECOND);
}

static long call_mprotect(void *function, const struct arguments *arguments)
{
	return function
		   ? CALL(int (*)(void *, size_t, int, int), PATH, 4096, PROT_READ | PROT_WRITE, -1)
		   : syscall(SYS_mprotect, PATH, 4096, PROT_READ | PROT_WRITE);
}

static long call_madvise(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, size_t, int), PATH, 4096, MADV_WILLNEED)
			: syscall(SYS_madvise, PATH, 4096, MADV_WILLNEED);
}

static long call_brk(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(void *), PATH);
}

static long call_shmat(void *function, const struct arguments *arguments)
{
	int id = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
	long result = function ? (long)CALL(void *(*)(int, const void *, int), id, PATH, 0)
			       : syscall(SYS_shmat, id, PATH, 0);
	int error = errno;

	shmctl(id, IPC_RMID, NULL);
	errno = error;
	return result;
}

static long call_shmdt(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const void *), PATH) : syscall(SYS_shmdt, PATH);
}

static long call_sigaction(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, void *, void *), SIGUSR1, PATH, SECOND)
			: syscall(SYS_rt_sigaction, SIGUSR1, PATH, SECOND, 8);
}

static long call_sigaltstack(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(const stack_t *, stack_t *), NULL, PATH)
			: syscall(SYS_sigaltstack, 0, PATH);
}

static long call_sigprocmask(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, void *, void *), SIG_BLOCK, PATH, SECOND)
			: syscall(SYS_rt_sigprocmask, SIG_BLOCK, PATH, SECOND, 8);
}

static long call_pthread_sigmask(void *function, const struct arguments *arguments)
{
	if (!function)
		return call_sigprocmask(NULL, arguments);
	errno = CALL(int (*)(int, void *, void *), SIG_BLOCK, PATH, SECOND);
	return errno ? -1 : 0;
}

static long call_execveat(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(int, const char *, char *const *, char *const *, int),
			       AT_FDCWD, PATH, SECOND, arguments->p[2], 0)
			: syscall(SYS_execveat, AT_FDCWD, PATH, SECOND, arguments->p[2], 0);
}

static const struct timespec no_time;

static long call_ppoll(void *function, const struct arguments *arguments)
{
	return function ? CALL(int (*)(void *, nfds_t, const struct timespec *, const void *), NULL,
			       0, &no_time, PATH)
			: syscall(SYS_ppoll, NULL, 0, &no_time, PATH, 8);
}

static long call_pselect(void *function, const struct arguments *arguments)
{
	return CALL(int (*)(int, void *, void *, void *, const struct timespec *, const void *), 0,
		    NULL, NULL, NULL, &no_time, PATH);
}

static long call_epoll_pwait(void *function, const struct arguments *arguments)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	return function
		   ? CALL(int (*)(int, void *, int, int, const void *), epoll, &event, 1, 0, PATH)
		   : syscall(SYS_epoll_pwait, epoll, &event, 1, 0, PATH, 8);
}

static long call_epoll_pwait2(void *function, const struct arguments *arguments)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	return CALL(int (*)(int, void *, int, const struct timespec *, const void *), epoll, &event,
		    1, &no_time, PATH);
}

#define FILE_PATH "/etc/passwd"
#define NULL_PATH "/dev/null"
#define BUFFER room[1]
#define STRINGS ((const char *)no_strings)
#define TRUE_PATH "/bin/true"

static const struct row rows[] = {
    {"open open64 __open_2 __open64_2", call_open, {FILE_PATH}, 1},
    {"openat openat64 __openat_2 __openat64_2", call_openat, {FILE_PATH}, 1},
    {"creat creat64", call_creat, {"/dev/null"}, 1},
    {"fopen fopen64", call_fopen, {FILE_PATH, "r"}, 0},
    {"fdopen", call_fdopen, {"r"}, 0},
    {"access euidaccess eaccess", call_access, {FILE_PATH}, 1},
    {"faccessat", call_faccessat, {FILE_PATH}, 1},
    {"stat stat64 lstat lstat64", call_stat, {FILE_PATH, BUFFER}, 1},
    {"fstatat fstatat64", call_fstatat, {FILE_PATH, BUFFER}, 1},
    {"__xstat __xstat64 __lxstat __lxstat64", call_xstat, {FILE_PATH, BUFFER}, 1},
    {"__fxstatat __fxstatat64", call_fxstatat, {FILE_PATH, BUFFER}, 1},
    {"statx", call_statx, {FILE_PATH, BUFFER}, 1},
    {"opendir", call_opendir, {"/"}, 0},
    {"chdir", call_chdir, {"/"}, 1},
    {"chroot", call_chroot, {"/"}, 1},
    {"ioctl", call_ioctl, {BUFFER}, 1},
    {"read __read_chk", call_read, {BUFFER}, 1},
    {"pread pread64 __pread_chk __pread64_chk", call_pread, {BUFFER}, 1},
    {"readv", call_readv, {room[0], BUFFER}, 1},
    {"preadv preadv64 preadv2 preadv64v2", call_preadv, {room[0], BUFFER}, 1},
    {"pwritev pwritev64 pwritev2 pwritev64v2", call_pwritev, {room[0], BUFFER}, 1},
    {"write", call_write, {BUFFER}, 1},
    {"writev", call_writev, {room[0], BUFFER}, 1},
    {"pwrite pwrite64", call_pwrite, {BUFFER}, 1},
    {"sendfile sendfile64", call_sendfile, {BUFFER}, 1},
    {"splice", call_splice, {BUFFER}, 1},
    {"futimens", call_futimens, {BUFFER}, 1},
    {"fstat fstat64", call_fstat, {BUFFER}, 1},
    {"__fxstat __fxstat64", call_fxstat, {BUFFER}, 1},
    {"fstatfs fstatfs64", call_fstatfs, {BUFFER}, 1},
    {"fcntl fcntl64", call_fcntl, {BUFFER}, 1},
    {"chmod", call_chmod, {NULL_PATH}, 1},
    {"fchmodat", call_fchmodat, {NULL_PATH}, 1},
    {"chown", call_chown, {NULL_PATH}, 1},
    {"fchownat", call_fchownat, {NULL_PATH}, 1},
    {"truncate truncate64", call_truncate, {NULL_PATH}, 1},
    {"utime", call_utime, {NULL_PATH, BUFFER}, 1},
    {"utimes", call_utimes, {NULL_PATH, BUFFER}, 1},
    {"utimensat", call_utimensat, {NULL_PATH, BUFFER}, 0},
    {"futimesat", call_futimesat, {NULL_PATH, BUFFER}, 1},
    {"futimes", call_futimes, {BUFFER}, 1},
    {"setxattr", call_setxattr, {NULL_PATH, "user.x", "x"}, 1},
    {"getxattr", call_getxattr, {NULL_PATH, "user.x", BUFFER}, 1},
    {"removexattr", call_removexattr, {NULL_PATH, "user.x"}, 1},
    {"fsetxattr", call_fsetxattr, {"user.x", "x"}, 1},
    {"fgetxattr", call_fgetxattr, {"user.x", BUFFER}, 1},
    {"fremovexattr", call_fremovexattr, {"user.x"}, 1},
    {"flistxattr", call_flistxattr, {BUFFER}, 1},
    {"name_to_handle_at", call_handle, {NULL_PATH, BUFFER, room[2]}, 1},
    {"readlink", call_readlink, {"/proc/self/exe", BUFFER}, 1},
    {"readlinkat", call_readlinkat, {"/proc/self/exe", BUFFER}, 1},
    {"copy_file_range", call_copy, {BUFFER, room[2]}, 1},
    {"tcgetattr", call_tcgetattr, {BUFFER}, 0},
    {"execve", call_execve, {TRUE_PATH, STRINGS, STRINGS}, 1},
    {"execve", call_execve_lists, {"a", "a=b"}, 1},
    {"execv execvp", call_execv, {TRUE_PATH, STRINGS}, 0},
    {"execvpe", call_execvpe, {TRUE_PATH, STRINGS, STRINGS}, 0},
    {"execl execlp execle", call_execl, {TRUE_PATH, "true"}, 0},
    {"fexecve", call_fexecve, {STRINGS, STRINGS}, 0},
    {"posix_spawn posix_spawnp", call_posix_spawn, {TRUE_PATH, STRINGS, STRINGS}, 0},
    {"mmap mmap64", call_mmap, {NULL}, 1},
    {"munmap", call_munmap, {room[3]}, 1},
    {"mremap", call_mremap, {room[2], room[3]}, 1},
    {"mprotect", call_mprotect, {room[3]}, 1},
    {"pkey_mprotect", call_mprotect, {room[3]}, 0},
    {"madvise", call_madvise, {room[3]}, 1},
    {"brk", call_brk, {NULL}, 0},
    {"shmat", call_shmat, {NULL}, 1},
    {"shmdt", call_shmdt, {NULL}, 1},
    {"sigaction __sigaction", call_sigaction, {BUFFER, room[2]}, 1},
    {"sigaltstack", call_sigaltstack, {BUFFER}, 1},
    {"sigprocmask", call_sigprocmask, {BUFFER, room[2]}, 1},
    {"execveat", call_execveat, {TRUE_PATH, STRINGS, STRINGS}, 1},
    {"ppoll", call_ppoll, {BUFFER}, 1},
    {"pselect", call_pselect, {BUFFER}, 0},
    {"epoll_pwait", call_epoll_pwait, {BUFFER}, 1},
    {"epoll_pwait2", call_epoll_pwait2, {BUFFER}, 0},
    {"pthread_sigmask", call_pthread_sigmask, {BUFFER, room[2]}, 1},
};

/* Interposed, and without a pointer that anything is read from or written to; or it would wait, or
 * libc's own death is right. */
static const char no_pointers[] =
    " __asan_default_options _Exit _Fork _exit clone close close_range closefrom dup dup2 dup3 "
    "fallocate fallocate64 "
    "fchmod "
    "fchown fdatasync flock fsync isatty readahead sync_file_range syscall "
    "ftruncate ftruncate64 lseek lseek64 posix_fallocate posix_fallocate64 pthread_cancel sbrk "
    "aio_fsync aio_fsync64 aio_read aio_read64 aio_write aio_write64 lio_listio "
    "lio_listio64 "
    "popen posix_spawn_file_actions_addopen prctl pthread_create setns thrd_create sigsuspend "
    "system "
    "sigignore "
    "signal bsd_signal ssignal "
    "__sysv_signal "
    "sysv_signal sigset ";

static bool lists(const char *names, const char *name)
{
	size_t length = strlen(name);

	for (const char *at = names; (at = strstr(at, name)); at += length)
		if ((at == names || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
			return true;
	return false;
}

static void check_listed(const char *name)
{
	bool found = lists(no_pointers, name);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		found = found || lists(rows[i].names, name);
	if (found)
		return;
	printf("FAIL %s is interposed and has no row here\n", name);
	failures++;
}

/* Entries of the symbol table, from the hash table's last chain. */
static uint32_t symbol_count(const uint32_t *hash)
{
	uint32_t buckets = hash[0], first = hash[1], last = 0;
	const uint32_t *bucket = (const uint32_t *)((const uint64_t *)(hash + 4) + hash[2]);
	const uint32_t *chain = bucket + buckets - first;

	for (uint32_t i = 0; i < buckets; i++)
		last = bucket[i] > last ? bucket[i] : last;
	while (last && !(chain[last] & 1))
		last++;
	return last ? last + 1 : 0;
}

static void test_all_have_rows(void)
{
	const Elf64_Sym *symbols = NULL;
	const uint32_t *hash = NULL;
	const char *strings = NULL;
	struct link_map *map = NULL;
	unsigned int seen = 0;
	Dl_info info;

	CHECK(dladdr(dlsym(RTLD_DEFAULT, "ioctl"), &info));
	CHECK(!dlinfo(dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD), RTLD_DI_LINKMAP, &map));
	for (const Elf64_Dyn *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
		if (entry->d_tag == DT_SYMTAB)
			symbols = (const Elf64_Sym *)entry->d_un.d_ptr;
		if (entry->d_tag == DT_STRTAB)
			strings = (const char *)entry->d_un.d_ptr;
		if (entry->d_tag == DT_GNU_HASH)
			hash = (const uint32_t *)entry->d_un.d_ptr;
	}
	CHECK(symbols && strings && hash);
	for (uint32_t i = 0; i < symbol_count(hash); i++) {
		if (symbols[i].st_shndx == SHN_UNDEF ||
		    ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC)
			continue;
		check_listed(strings + symbols[i].st_name);
		seen++;
	}
	CHECK(seen > 80 && seen < 1000);
}

static void *const bad_pointers[] = {
    NULL,
    (void *)8,
    (void *)0x6f0000001000,	/* nothing is mapped there */
    (void *)0x7ffffffff000,	/* the first past all that a client has */
    (void *)0xffff800000000000, /* the kernel's */
    (void *)0xfffffffffffffff8, /* wraps */
};
#define BAD_POINTERS (sizeof(bad_pointers) / sizeof(bad_pointers[0]))

/* By bad pointer: 0, an errno, or minus the signal that the caller died of. */
struct outcomes {
	int of[BAD_POINTERS];
	unsigned int at;
};

/* In one child as long as it lives: a call may end it, or replace it. */
static void outcomes_get(struct outcomes *outcomes, caller *call, void *function,
			 const struct arguments *arguments, unsigned int which)
{
	struct outcomes *shared =
	    mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(shared != MAP_FAILED);
	while (shared->at < BAD_POINTERS) {
		pid_t pid = fork();
		int status;

		if (!pid) {
			const struct rlimit no_core = {0, 0};
			struct arguments bad = *arguments;

			setrlimit(RLIMIT_CORE, &no_core);
			if (!function && !is_trapped)
				CHECK(!prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 0, 0, 0, 0));
			for (; shared->at < BAD_POINTERS; shared->at++) {
				bad.p[which] = bad_pointers[shared->at];
				shared->of[shared->at] = call(function, &bad) == -1 ? errno : 0;
			}
			_exit(0);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		if (shared->at == BAD_POINTERS)
			break;
		shared->of[shared->at++] =
		    WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
	}
	*outcomes = *shared;
	CHECK(!munmap(shared, sizeof(*shared)));
}

/* @expect is what the kernel made of the same calls, or libc. */
static void compare(const char *what, const char *name, unsigned int which,
		    const struct outcomes *got, const struct outcomes *expect)
{
	for (size_t i = 0; i < BAD_POINTERS; i++) {
		int wanted = expect->of[i] == -SIGSEGV ? EFAULT : expect->of[i];

		if (got->of[i] != wanted && failures++ < FAILURES_MAX)
			printf("FAIL %s: %s, pointer %u = %p: got %d, not %d\n", what, name, which,
			       bad_pointers[i], got->of[i], wanted);
	}
}

static void check_function(const char *what, const struct row *row, const char *name)
{
	void *ours = dlsym(RTLD_DEFAULT, name);
	void *libcs = row->has_raw ? NULL : dlsym(dlopen("libc.so.6", RTLD_LAZY), name);
	struct arguments arguments = {.fd = open(FILE_PATH, O_RDONLY)};
	struct outcomes got, expect;
	int pipes[2];

	CHECK(ours && (row->has_raw || libcs) && !pipe(pipes));
	arguments.pipe = pipes[1];
	for (unsigned int which = 0; which < POINTERS_MAX; which++) {
		if (which && !row->good[which])
			break;
		memcpy(arguments.p, row->good, sizeof(arguments.p));
		outcomes_get(&expect, row->call, libcs, &arguments, which);
		outcomes_get(&got, row->call, ours, &arguments, which);
		compare(what, name, which, &got, &expect);
		if (!row->has_raw)
			continue;
		is_trapped = true;
		outcomes_get(&got, row->call, NULL, &arguments, which);
		is_trapped = false;
		compare("trapped", name, which, &got, &expect);
	}
	close(arguments.fd);
	close(pipes[0]);
	close(pipes[1]);
}

static void check_all(const char *what)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char names[128], *rest = names, *name;

		strcpy(names, rows[i].names);
		while ((name = strsep(&rest, " ")))
			check_function(what, &rows[i], name);
	}
}

/* The buffer of a look at the device, against that of another. */
static void test_device_paths(void)
{
	static const char *const looks[] = {"stat",   "lstat",	    "fstatat",
					    "stat64", "__fxstatat", "statx"};
	struct arguments arguments = {{0}, -1, -1};

	for (size_t look = 0; look < sizeof(looks) / sizeof(looks[0]); look++) {
		const struct row *row = rows;
		struct outcomes got, expect;

		while (!lists(row->names, looks[look]))
			row++;
		arguments.p[0] = (void *)"/dev/null";
		outcomes_get(&expect, row->call, NULL, &arguments, 1);
		arguments.p[0] = (void *)"/dev/kvm";
		outcomes_get(&got, row->call, dlsym(RTLD_DEFAULT, looks[look]), &arguments, 1);
		compare("the device", looks[look], 1, &got, &expect);
	}
}

/* Calls on our descriptor @fd answer as the raw ones on @like. */
static void check_descriptor(const char *what, int fd, int like)
{
	static const char calls[] = "read pread readv preadv write writev pwrite pwritev sendfile "
				    "futimens";
	int pipes[2];

	CHECK(!pipe(pipes));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char name[128];

		strcpy(name, rows[i].names);
		name[strcspn(name, " ")] = '\0';
		if (!lists(calls, name))
			continue;
		for (unsigned int which = 0; which < 2 && rows[i].good[which]; which++) {
			struct arguments arguments = {.fd = like, .pipe = pipes[1]};
			struct outcomes got, expect;

			memcpy(arguments.p, rows[i].good, sizeof(arguments.p));
			outcomes_get(&expect, rows[i].call, NULL, &arguments, which);
			arguments.fd = fd;
			outcomes_get(&got, rows[i].call, dlsym(RTLD_DEFAULT, name), &arguments,
				     which);
			/* No offset and no times are no bad pointers. */
			got.of[0] = expect.of[0];
			compare(what, name, which, &got, &expect);
		}
	}
	close(pipes[0]);
	close(pipes[1]);
}

int main(void)
{
	sigset_t all, before;
	int kvm, vm, stats;

	setvbuf(stdout, NULL, _IOLBF, 0);
	test_all_have_rows();
	check_all("before KVM is opened");
	test_device_paths();
	kvm = open("/dev/kvm", O_RDWR);
	CHECK(kvm >= 0);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0);
	stats = ioctl(vm, KVM_GET_STATS_FD, 0);
	CHECK(stats >= 0);
	check_all("with a VM");
	test_device_paths();
	check_descriptor("a VM", vm, epoll_create1(0));
	check_descriptor("statistics", stats, open("/proc/self/status", O_RDONLY));
	sigfillset(&all);
	CHECK(!sigprocmask(SIG_SETMASK, &all, &before));
	check_all("with all signals blocked");
	CHECK(!sigprocmask(SIG_SETMASK, &before, NULL));
	printf("%u failures\n", failures);
	return failures != 0;
}
