/* Calls on what an open file says of itself: thin entries, each ends in the boundary. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <termios.h>
#include <unistd.h>
#include <utime.h>

#include "frontend/file/numbers.h"
#include "preload/entry.h"

/* Where libc's own function would read the client's memory itself: the system call. */
#define WITHOUT_LIBC(number, ...) \
	((int)real_result(        \
	    boundary_call(&(const struct boundary_call){.nr = (number), .args = {__VA_ARGS__}})))

int __fxstat(int version, int fd, struct stat *status);
int __fxstat64(int version, int fd, struct stat64 *status);

INTERPOSED int fstat(int fd, struct stat *status)
{
	return ENTRY(SYS_fstat, REAL(fstat)(fd, status), ARGUMENT(fd), ARGUMENT(status));
}

INTERPOSED int fstat64(int fd, struct stat64 *status)
{
	return fstat(fd, (struct stat *)status);
}

/* Programs linked against libc before 2.33; the version has one value on x86-64. */
INTERPOSED int __fxstat(int version, int fd, struct stat *status)
{
	(void)version;
	return fstat(fd, status);
}
INTERPOSED_ALIAS("__fxstat") int __fxstat64(int version, int fd, struct stat64 *status);

INTERPOSED int fstatfs(int fd, struct statfs *status)
{
	return ENTRY(SYS_fstatfs, REAL(fstatfs)(fd, status), ARGUMENT(fd), ARGUMENT(status));
}
INTERPOSED_ALIAS("fstatfs") int fstatfs64(int fd, struct statfs64 *status);

INTERPOSED int ftruncate(int fd, off_t size_bytes)
{
	return ENTRY(SYS_ftruncate, REAL(ftruncate)(fd, size_bytes), ARGUMENT(fd),
		     ARGUMENT(size_bytes));
}
INTERPOSED_ALIAS("ftruncate") int ftruncate64(int fd, off_t size_bytes);

INTERPOSED int fchmod(int fd, mode_t mode)
{
	return ENTRY(SYS_fchmod, REAL(fchmod)(fd, mode), ARGUMENT(fd), mode);
}

INTERPOSED int fchown(int fd, uid_t owner, gid_t group)
{
	return ENTRY(SYS_fchown, REAL(fchown)(fd, owner, group), ARGUMENT(fd), owner, group);
}

INTERPOSED int fchownat(int fd, const char *path, uid_t owner, gid_t group, int flags)
{
	return ENTRY(SYS_fchownat, REAL(fchownat)(fd, path, owner, group, flags), ARGUMENT(fd),
		     ARGUMENT(path), owner, group, ARGUMENT(flags));
}

INTERPOSED int futimens(int fd, const struct timespec times[2])
{
	return ENTRY(SYS_utimensat, REAL(futimens)(fd, times), ARGUMENT(fd), 0, ARGUMENT(times));
}

INTERPOSED int utimensat(int fd, const char *path, const struct timespec times[2], int flags)
{
	return ENTRY(SYS_utimensat, REAL(utimensat)(fd, path, times, flags), ARGUMENT(fd),
		     ARGUMENT(path), ARGUMENT(times), ARGUMENT(flags));
}

INTERPOSED int futimesat(int fd, const char *path, const struct timeval times[2])
{
	return WITHOUT_LIBC(SYS_futimesat, ARGUMENT(fd), ARGUMENT(path), ARGUMENT(times));
}

INTERPOSED int futimes(int fd, const struct timeval times[2])
{
	return WITHOUT_LIBC(SYS_futimesat, ARGUMENT(fd), 0, ARGUMENT(times));
}

INTERPOSED int fsetxattr(int fd, const char *name, const void *value, size_t size_bytes, int flags)
{
	return ENTRY(SYS_fsetxattr, REAL(fsetxattr)(fd, name, value, size_bytes, flags),
		     ARGUMENT(fd), ARGUMENT(name), ARGUMENT(value), size_bytes, ARGUMENT(flags));
}

INTERPOSED ssize_t fgetxattr(int fd, const char *name, void *value, size_t size_bytes)
{
	return ENTRY(SYS_fgetxattr, REAL(fgetxattr)(fd, name, value, size_bytes), ARGUMENT(fd),
		     ARGUMENT(name), ARGUMENT(value), size_bytes);
}

INTERPOSED ssize_t flistxattr(int fd, char *names, size_t size_bytes)
{
	return ENTRY(SYS_flistxattr, REAL(flistxattr)(fd, names, size_bytes), ARGUMENT(fd),
		     ARGUMENT(names), size_bytes);
}

INTERPOSED int fremovexattr(int fd, const char *name)
{
	return ENTRY(SYS_fremovexattr, REAL(fremovexattr)(fd, name), ARGUMENT(fd), ARGUMENT(name));
}

INTERPOSED int name_to_handle_at(int fd, const char *path, struct file_handle *handle, int *mount,
				 int flags)
{
	return ENTRY(SYS_name_to_handle_at, REAL(name_to_handle_at)(fd, path, handle, mount, flags),
		     ARGUMENT(fd), ARGUMENT(path), ARGUMENT(handle), ARGUMENT(mount),
		     ARGUMENT(flags));
}

INTERPOSED int fcntl(int fd, int command, ...)
{
	unsigned long argument;
	va_list arguments;
	int result;

	va_start(arguments, command);
	argument = va_arg(arguments, unsigned long);
	va_end(arguments);
	result = ENTRY(SYS_fcntl, REAL(fcntl)(fd, command, argument), ARGUMENT(fd),
		       ARGUMENT(command), argument);
	/* A new number, which may have been something else. */
	if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && result >= 0)
		numbers_changed(result);
	return result;
}
INTERPOSED_ALIAS("fcntl") int fcntl64(int fd, int command, ...);

INTERPOSED int flock(int fd, int operation)
{
	return ENTRY(SYS_flock, REAL(flock)(fd, operation), ARGUMENT(fd), ARGUMENT(operation));
}

/* libc asks the terminal by a call of its own, with a structure of its own. */
INTERPOSED int tcgetattr(int fd, struct termios *settings)
{
	unsigned char kernels[64];

	return ENTRY(SYS_ioctl, REAL(tcgetattr)(fd, settings), ARGUMENT(fd), TCGETS,
		     ARGUMENT(kernels));
}

INTERPOSED int isatty(int fd)
{
	struct termios settings;

	if (is_libc_alone())
		return REAL(isatty)(fd);
	return tcgetattr(fd, &settings) == 0;
}

/* By a path: a link in /proc may lead to an object. */

INTERPOSED int truncate(const char *path, off_t size_bytes)
{
	return ENTRY(SYS_truncate, REAL(truncate)(path, size_bytes), ARGUMENT(path),
		     ARGUMENT(size_bytes));
}
INTERPOSED_ALIAS("truncate") int truncate64(const char *path, off_t size_bytes);

INTERPOSED int chmod(const char *path, mode_t mode)
{
	return ENTRY(SYS_chmod, REAL(chmod)(path, mode), ARGUMENT(path), mode);
}

INTERPOSED int fchmodat(int fd, const char *path, mode_t mode, int flags)
{
	return ENTRY(SYS_fchmodat, REAL(fchmodat)(fd, path, mode, flags), ARGUMENT(fd),
		     ARGUMENT(path), mode);
}

INTERPOSED int chown(const char *path, uid_t owner, gid_t group)
{
	return ENTRY(SYS_chown, REAL(chown)(path, owner, group), ARGUMENT(path), owner, group);
}

INTERPOSED int utime(const char *path, const struct utimbuf *times)
{
	return WITHOUT_LIBC(SYS_utime, ARGUMENT(path), ARGUMENT(times));
}

INTERPOSED int utimes(const char *path, const struct timeval times[2])
{
	return WITHOUT_LIBC(SYS_utimes, ARGUMENT(path), ARGUMENT(times));
}

INTERPOSED int setxattr(const char *path, const char *name, const void *value, size_t size_bytes,
			int flags)
{
	return ENTRY(SYS_setxattr, REAL(setxattr)(path, name, value, size_bytes, flags),
		     ARGUMENT(path), ARGUMENT(name), ARGUMENT(value), size_bytes, ARGUMENT(flags));
}

INTERPOSED ssize_t getxattr(const char *path, const char *name, void *value, size_t size_bytes)
{
	return ENTRY(SYS_getxattr, REAL(getxattr)(path, name, value, size_bytes), ARGUMENT(path),
		     ARGUMENT(name), ARGUMENT(value), size_bytes);
}

INTERPOSED int removexattr(const char *path, const char *name)
{
	return ENTRY(SYS_removexattr, REAL(removexattr)(path, name), ARGUMENT(path),
		     ARGUMENT(name));
}
