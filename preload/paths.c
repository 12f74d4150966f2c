/* Calls that name a path: /dev/kvm is ours, and so are the parameters of KVM's modules. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <quire/platform.h>

#include "frontend/file.h"
#include "frontend/params.h"
#include "frontend/signal_actions.h"
#include "hosts/process/process.h"
#include "preload/real.h"

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

/* Where @path leads: elsewhere for the parameters of KVM's modules. */
static const char *path_of(const char *path, char room[PARAMS_PATH_MAX])
{
	if (client_call_active() || !params_covers(path))
		return path;
	client_call_begin();
	path = params_path(path, room);
	client_call_end();
	return path;
}

static bool is_kvm(const char *path)
{
	return path && !strcmp(path, "/dev/kvm");
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
	const char *path = request->path;
	int flags = request->flags;

	if (!client_call_active()) {
		if (is_kvm(path))
			return kvm_open(flags);
		path = path_of(request->path, room);
		if (path != request->path) {
			client_call_begin();
			flags = params_open_flags(path, flags);
			client_call_end();
			if (flags < 0)
				return (int)real_result(flags);
		}
	}
	return REAL(openat)(request->directory, path, flags, request->mode);
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
	char room[PARAMS_PATH_MAX];
	FILE *stream;
	int fd;

	if (client_call_active() || (!is_kvm(path) && path_of(path, room) == path))
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

	if (client_call_active())
		return REAL(faccessat)(directory, path, mode, flags);
	if (is_kvm(path))
		return kvm_access(mode);
	return REAL(faccessat)(directory, path_of(path, room), mode, flags);
}

INTERPOSED int access(const char *path, int mode)
{
	char room[PARAMS_PATH_MAX];

	if (client_call_active())
		return REAL(access)(path, mode);
	if (is_kvm(path))
		return kvm_access(mode);
	return REAL(access)(path_of(path, room), mode);
}

INTERPOSED int euidaccess(const char *path, int mode)
{
	char room[PARAMS_PATH_MAX];

	if (client_call_active())
		return REAL(euidaccess)(path, mode);
	if (is_kvm(path))
		return kvm_access(mode);
	return REAL(euidaccess)(path_of(path, room), mode);
}
INTERPOSED_ALIAS("euidaccess") int eaccess(const char *path, int mode);

/* The device node, also where the machine has none. */
static int kvm_stat(struct stat *status)
{
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

	if (client_call_active())
		return REAL(fstatat)(directory, path, status, flags);
	if (is_kvm(path))
		return kvm_stat(status);
	return REAL(fstatat)(directory, path_of(path, room), status, flags);
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

	if (client_call_active())
		return REAL(statx)(directory, path, flags, mask, status);
	if (!is_kvm(path))
		return REAL(statx)(directory, path_of(path, room), flags, mask, status);
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

INTERPOSED DIR *opendir(const char *path)
{
	char room[PARAMS_PATH_MAX];

	return REAL(opendir)(path_of(path, room));
}

INTERPOSED int chdir(const char *path)
{
	char room[PARAMS_PATH_MAX];

	return REAL(chdir)(path_of(path, room));
}
