/* Calls that name a path: /dev/kvm is ours, and so are the parameters of KVM's modules. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boundary/place.h"
#include "frontend/file/user_copy.h"
#include "preload/entry.h"

#define NEEDS_MODE(flags) (((flags)&O_CREAT) || ((flags)&O_TMPFILE) == O_TMPFILE)

/* One open call, whichever function it came by. */
struct open_request {
	int directory;
	const char *path;
	int flags;
	mode_t mode;
};

char *__realpath_chk(const char *path, char *resolved, size_t size_bytes);
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

static int open_common(const struct open_request *request)
{
	return ENTRY_ON_PATH(
	    SYS_openat,
	    REAL(openat)(request->directory, request->path, request->flags, request->mode),
	    ARGUMENT(request->directory), ARGUMENT(request->path), ARGUMENT(request->flags),
	    request->mode);
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

INTERPOSED SMALL_FRAME int open(const char *path, int flags, ...)
{
	struct open_request request = {AT_FDCWD, path, flags, MODE_ARGUMENT(flags, flags)};

	return open_common(&request);
}

INTERPOSED SMALL_FRAME int openat(int directory, const char *path, int flags, ...)
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
	if (mode[0] == 'a')
		flags = (flags & ~O_TRUNC) | O_APPEND;
	if (strchr(mode, 'x'))
		flags |= O_EXCL;
	if (strchr(mode, 'e'))
		flags |= O_CLOEXEC;
	return flags;
}

/* Opened by a call of ours, for libc makes its own past us. */
static FILE *fopen_again(const char *path, const char *mode)
{
	FILE *stream;
	int fd = open(path, fopen_flags(mode), 0666);

	if (fd < 0)
		return NULL;
	/* A parameter has no end to append to; fdopen() truncates nothing. */
	stream = fdopen(fd, mode[0] != 'a' ? mode : strchr(mode, '+') ? "w+" : "w");
	if (!stream)
		close(fd);
	return stream;
}

INTERPOSED FILE *fopen(const char *path, const char *mode)
{
	const struct place place = {AT_FDCWD, (unsigned long)path, PLACE_FOLLOW};
	char room[PARAMS_PATH_MAX], mode_text[16];
	FILE *stream;

	if (client_call_active())
		return REAL(fopen)(path, mode);
	if (user_peek_string(mode_text, sizeof(mode_text), (uintptr_t)mode) < 0) {
		errno = EFAULT;
		return NULL;
	}
	if (place_is_parameter(&place, room) || (mode[0] != 'r' && place_is_missing_kvm(&place)))
		return fopen_again(path, mode);
	stream = REAL(fopen)(path, mode);
	if (stream || !place_may_be_kvm(-errno) || !place_is_kvm(&place))
		return stream;
	return fopen_again(path, mode);
}
INTERPOSED_ALIAS("fopen") FILE *fopen64(const char *path, const char *mode);

INTERPOSED int faccessat(int directory, const char *path, int mode, int flags)
{
	return ENTRY_ON_PATH(SYS_faccessat2, REAL(faccessat)(directory, path, mode, flags),
			     ARGUMENT(directory), ARGUMENT(path), ARGUMENT(mode), ARGUMENT(flags));
}

INTERPOSED int access(const char *path, int mode)
{
	return ENTRY_ON_PATH(SYS_access, REAL(access)(path, mode), ARGUMENT(path), ARGUMENT(mode));
}

INTERPOSED int euidaccess(const char *path, int mode)
{
	return ENTRY_ON_PATH(SYS_faccessat2, REAL(euidaccess)(path, mode), ARGUMENT(AT_FDCWD),
			     ARGUMENT(path), ARGUMENT(mode), AT_EACCESS);
}
INTERPOSED_ALIAS("euidaccess") int eaccess(const char *path, int mode);

INTERPOSED int fstatat(int directory, const char *path, struct stat *status, int flags)
{
	return ENTRY_ON_PATH(SYS_newfstatat, REAL(fstatat)(directory, path, status, flags),
			     ARGUMENT(directory), ARGUMENT(path), ARGUMENT(status),
			     ARGUMENT(flags));
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
	return ENTRY_ON_PATH(SYS_statx, REAL(statx)(directory, path, flags, mask, status),
			     ARGUMENT(directory), ARGUMENT(path), ARGUMENT(flags), mask,
			     ARGUMENT(status));
}

INTERPOSED ssize_t readlink(const char *path, char *text, size_t size_bytes)
{
	return ENTRY_ON_PATH(SYS_readlink, REAL(readlink)(path, text, size_bytes), ARGUMENT(path),
			     ARGUMENT(text), size_bytes);
}

INTERPOSED ssize_t readlinkat(int directory, const char *path, char *text, size_t size_bytes)
{
	return ENTRY_ON_PATH(SYS_readlinkat, REAL(readlinkat)(directory, path, text, size_bytes),
			     ARGUMENT(directory), ARGUMENT(path), ARGUMENT(text), size_bytes);
}

/* As realpath(), into @room: NULL with errno, and what libc leaves there, when it fails. */
static const char *resolve(const char *path, char room[PATH_MAX])
{
	const struct place place = {AT_FDCWD, (unsigned long)path, PLACE_FOLLOW};
	char first[2];

	room[0] = '\0';
	if (path && user_peek_string(first, sizeof(first), (uintptr_t)path) < 0) {
		errno = EFAULT;
		return NULL;
	}
	if (REAL(realpath)(path, room))
		return room;
	if (errno != ENOENT || !place_is_missing_kvm(&place))
		return NULL;
	return strcpy(room, "/dev/kvm");
}

INTERPOSED char *realpath(const char *path, char *resolved)
{
	char room[PATH_MAX + 8] = "";
	const char *found;
	size_t bytes;
	int error;

	if (client_call_active())
		return REAL(realpath)(path, resolved);
	found = resolve(path, room);
	error = errno;
	if (!resolved)
		return found ? strdup(room) : NULL;
	/* user_poke() copies 8 bytes or more: a client's room is of PATH_MAX bytes, and has them.
	 */
	bytes = strlen(room) < 8 ? 8 : strlen(room) + 1;
	if (user_poke((uintptr_t)resolved, room, bytes))
		error = EFAULT;
	else if (found)
		return resolved;
	errno = error;
	return NULL;
}

INTERPOSED char *canonicalize_file_name(const char *path)
{
	return realpath(path, NULL);
}

INTERPOSED char *__realpath_chk(const char *path, char *resolved, size_t size_bytes)
{
	return size_bytes < PATH_MAX ? REAL(__realpath_chk)(path, resolved, size_bytes)
				     : realpath(path, resolved);
}

INTERPOSED DIR *opendir(const char *path)
{
	const struct place place = {AT_FDCWD, (unsigned long)path, PLACE_FOLLOW};
	char room[PARAMS_PATH_MAX], first[2];

	if (user_peek_string(first, sizeof(first), (uintptr_t)path) < 0) {
		errno = EFAULT;
		return NULL;
	}
	if (!client_call_active() && place_is_parameter(&place, room))
		return REAL(opendir)(room);
	return REAL(opendir)(path);
}

INTERPOSED int chdir(const char *path)
{
	return ENTRY_ON_PATH(SYS_chdir, REAL(chdir)(path), ARGUMENT(path));
}
