/* Calls that name a path: /dev/kvm is ours, and so are the parameters of KVM's modules. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <quire/platform.h>

#include "frontend/file.h"
#include "frontend/params.h"
#include "frontend/signal_actions.h"
#include "frontend/user_copy.h"
#include "hosts/process/process.h"
#include "preload/entry.h"

#define KVM_MAJOR 10
#define KVM_MINOR 232
#define NEEDS_MODE(flags) (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE)

/* One open call, whichever function it came by. */
struct open_request {
	int directory;
	const char *path;
	int flags;
	mode_t mode;
};

int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int directory, const char *path, int flags);
int __openat64_2(int directory, const char *path, int flags);
int __xstat(int version, const char *path, struct stat *status);
int __xstat64(int version, const char *path, struct stat *status);
int __lxstat(int version, const char *path, struct stat *status);
int __lxstat64(int version, const char *path, struct stat *status);
int __fxstatat(int version, int directory, const char *path, struct stat *status, int flags);
int __fxstatat64(int version, int directory, const char *path, struct stat *status, int flags);

/* Enough of a path to tell whether it is one of ours: "/sys/module/kvm" is the longest. */
#define HEAD_BYTES 17

/* What a client's path means: the device, or where it leads (elsewhere for parameters). */
struct target {
	bool is_kvm;
	const char *path;
};

/* A pointer that cannot be read is left for the kernel to answer. */
static struct target target_of(const char *path, char room[PARAMS_PATH_MAX])
{
	struct target target = {false, path};
	char text[PARAMS_PATH_MAX];
	long length;

	if (client_call_active() || user_peek_string(text, HEAD_BYTES, (uintptr_t)path) < 0)
		return target;
	target.is_kvm = !strcmp(text, "/dev/kvm");
	if (!params_covers(text))
		return target;
	length = user_peek_string(text, sizeof(text), (uintptr_t)path);
	if (length < 0 || (size_t)length == sizeof(text) - 1)
		return target;
	client_call_begin();
	if (params_path(text, room) == room)
		target.path = room;
	client_call_end();
	return target;
}

/* The client's first use of KVM: until here the process is as it would be without us. */
static void start(void)
{
	quire_platform_install(&process_platform);
	signal_actions_init();
}

/* What an open of the character device would say before it reaches KVM. */
static int kvm_open(int flags)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	int fd;

	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
		return (int)real_result(-EEXIST);
	if (flags & O_DIRECTORY)
		return (int)real_result(-ENOTDIR);
	pthread_once(&once, start);
	client_call_begin();
	fd = system_open(flags & O_CLOEXEC);
	client_call_end();
	return (int)real_result(fd);
}

static int open_common(const struct open_request *request)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(request->path, room);
	int flags = request->flags;

	if (target.is_kvm)
		return kvm_open(flags);
	if (target.path == room) {
		client_call_begin();
		flags = params_open_flags(room, flags);
		client_call_end();
		if (flags < 0)
			return (int)real_result(flags);
	}
	return REAL(openat)(request->directory, target.path, flags, request->mode);
}

#define MODE_ARGUMENT(flags, last)                                      \
	({                                                              \
		mode_t mode_argument = 0;                               \
		if (NEEDS_MODE(flags)) {                                \
			va_list arguments;                              \
			va_start(arguments, last);                      \
			mode_argument = (mode_t)va_arg(arguments, int); \
			va_end(arguments);                              \
		}                                                       \
		mode_argument;                                          \
	})

INTERPOSED int open(const char *path, int flags, ...)
{
	struct open_request request = {AT_FDCWD, path, flags, MODE_ARGUMENT(flags, flags)};

	return open_common(&request);
}

INTERPOSED int openat(int directory, const char *path, int flags, ...)
{
	struct open_request request = {directory, path, flags, MODE_ARGUMENT(flags, flags)};

	return open_common(&request);
}

INTERPOSED int __open_2(const char *path, int flags)
{
	struct open_request request = {AT_FDCWD, path, flags, 0};

	return open_common(&request);
}

INTERPOSED int __openat_2(int directory, const char *path, int flags)
{
	struct open_request request = {directory, path, flags, 0};

	return open_common(&request);
}

INTERPOSED int creat(const char *path, mode_t mode)
{
	struct open_request request = {AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode};

	return open_common(&request);
}

INTERPOSED_ALIAS("open") int open64(const char *path, int flags, ...);
INTERPOSED_ALIAS("openat") int openat64(int directory, const char *path, int flags, ...);
INTERPOSED_ALIAS("__open_2") int __open64_2(const char *path, int flags);
INTERPOSED_ALIAS("__openat_2") int __openat64_2(int directory, const char *path, int flags);
INTERPOSED_ALIAS("creat") int creat64(const char *path, mode_t mode);

static int fopen_flags(const char *mode)
{
	int flags = mode[0] == 'r' ? O_RDONLY : O_WRONLY | O_CREAT | O_TRUNC;

	if (strchr(mode, '+'))
		flags = (flags & ~O_ACCMODE) | O_RDWR;
	if (strchr(mode, 'e'))
		flags |= O_CLOEXEC;
	return flags;
}

INTERPOSED FILE *fopen(const char *path, const char *mode)
{
	char room[PARAMS_PATH_MAX], mode_text[16];
	struct target target = target_of(path, room);
	FILE *stream;
	int fd;

	if (user_peek_string(mode_text, sizeof(mode_text), (uintptr_t)mode) < 0) {
		errno = EFAULT;
		return NULL;
	}
	if (!target.is_kvm && target.path != room)
		return REAL(fopen)(path, mode);
	fd = open(path, fopen_flags(mode), 0666);
	if (fd < 0)
		return NULL;
	/* A parameter has no end to append to; fdopen() truncates nothing. */
	stream = fdopen(fd, mode[0] != 'a' ? mode : strchr(mode, '+') ? "w+" : "w");
	if (!stream)
		close(fd);
	return stream;
}
INTERPOSED_ALIAS("fopen") FILE *fopen64(const char *path, const char *mode);

static int kvm_access(int mode)
{
	return mode & X_OK ? (int)real_result(-EACCES) : 0;
}

INTERPOSED int faccessat(int directory, const char *path, int mode, int flags)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(path, room);

	if (target.is_kvm)
		return kvm_access(mode);
	return REAL(faccessat)(directory, target.path, mode, flags);
}

INTERPOSED int access(const char *path, int mode)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(path, room);

	if (target.is_kvm)
		return kvm_access(mode);
	return REAL(access)(target.path, mode);
}

INTERPOSED int euidaccess(const char *path, int mode)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(path, room);

	if (target.is_kvm)
		return kvm_access(mode);
	return REAL(euidaccess)(target.path, mode);
}
INTERPOSED_ALIAS("euidaccess") int eaccess(const char *path, int mode);

/*
 * The device node, also where the machine has none. The kernel answers for another file first: it
 * judges the flags and the client's buffer.
 */
static int kvm_stat(struct stat *status, int flags)
{
	if (REAL(fstatat)(AT_FDCWD, "/", status, flags))
		return -1;
	memset(status, 0, sizeof(*status));
	status->st_mode = S_IFCHR | 0666;
	status->st_rdev = makedev(KVM_MAJOR, KVM_MINOR);
	status->st_nlink = 1;
	status->st_ino = KVM_MINOR;
	status->st_blksize = 4096;
	return 0;
}

INTERPOSED int fstatat(int directory, const char *path, struct stat *status, int flags)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(path, room);

	if (target.is_kvm)
		return kvm_stat(status, flags);
	return ENTRY(SYS_newfstatat, REAL(fstatat)(directory, target.path, status, flags),
		     ARGUMENT(directory), ARGUMENT(target.path), ARGUMENT(status), ARGUMENT(flags));
}

INTERPOSED int stat(const char *path, struct stat *status)
{
	return fstatat(AT_FDCWD, path, status, 0);
}

INTERPOSED int lstat(const char *path, struct stat *status)
{
	return fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

/* Programs linked against libc before 2.33; the version has one value on x86-64. */
INTERPOSED int __xstat(int version, const char *path, struct stat *status)
{
	(void)version;
	return fstatat(AT_FDCWD, path, status, 0);
}

INTERPOSED int __lxstat(int version, const char *path, struct stat *status)
{
	(void)version;
	return fstatat(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

INTERPOSED int __fxstatat(int version, int directory, const char *path, struct stat *status,
			  int flags)
{
	(void)version;
	return fstatat(directory, path, status, flags);
}

INTERPOSED int stat64(const char *path, struct stat64 *status)
{
	return fstatat(AT_FDCWD, path, (struct stat *)status, 0);
}

INTERPOSED int lstat64(const char *path, struct stat64 *status)
{
	return fstatat(AT_FDCWD, path, (struct stat *)status, AT_SYMLINK_NOFOLLOW);
}

INTERPOSED int fstatat64(int directory, const char *path, struct stat64 *status, int flags)
{
	return fstatat(directory, path, (struct stat *)status, flags);
}
INTERPOSED_ALIAS("__xstat") int __xstat64(int version, const char *path, struct stat *status);
INTERPOSED_ALIAS("__lxstat") int __lxstat64(int version, const char *path, struct stat *status);
INTERPOSED_ALIAS("__fxstatat")
int __fxstatat64(int version, int directory, const char *path, struct stat *status, int flags);

INTERPOSED int statx(int directory, const char *path, int flags, unsigned int mask,
		     struct statx *status)
{
	char room[PARAMS_PATH_MAX];
	struct target target = target_of(path, room);

	if (!target.is_kvm)
		return ENTRY(SYS_statx, REAL(statx)(directory, target.path, flags, mask, status),
			     ARGUMENT(directory), ARGUMENT(target.path), ARGUMENT(flags), mask,
			     ARGUMENT(status));
	if (REAL(statx)(AT_FDCWD, "/", flags, mask, status))
		return -1;
	memset(status, 0, sizeof(*status));
	status->stx_mask = STATX_BASIC_STATS;
	status->stx_mode = S_IFCHR | 0666;
	status->stx_rdev_major = KVM_MAJOR;
	status->stx_rdev_minor = KVM_MINOR;
	status->stx_nlink = 1;
	status->stx_ino = KVM_MINOR;
	status->stx_blksize = 4096;
	return 0;
}

/* libc looks at the name itself. */
INTERPOSED DIR *opendir(const char *path)
{
	char room[PARAMS_PATH_MAX], first[2];

	if (user_peek_string(first, sizeof(first), (uintptr_t)path) < 0) {
		errno = EFAULT;
		return NULL;
	}
	return REAL(opendir)(target_of(path, room).path);
}

INTERPOSED int chdir(const char *path)
{
	char room[PARAMS_PATH_MAX];

	return REAL(chdir)(target_of(path, room).path);
}
