/* Calls on a descriptor: thin entries, each ends in the boundary (boundary/call.h). */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "preload/entry.h"
#include "preload/memory.h"

ssize_t __read_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes);
ssize_t __pread_chk(int fd, void *dst, size_t size_bytes, off_t offset, size_t room_bytes);
ssize_t __pread64_chk(int fd, void *dst, size_t size_bytes, off_t offset, size_t room_bytes);

static long forward_ioctl(int fd, unsigned long command, unsigned long argument)
{
	return REAL(ioctl)(fd, command, argument);
}

INTERPOSED SMALL_FRAME int ioctl(int fd, unsigned long command, ...)
{
	struct boundary_call call = {.nr = SYS_ioctl, .args = {ARGUMENT(fd), command}};
	va_list arguments;
	long result;

	va_start(arguments, command);
	call.args[2] = va_arg(arguments, unsigned long);
	va_end(arguments);
	if (!client_call_active() && boundary_try(&call, &result) == BOUNDARY_ANSWERED)
		return (int)real_result(result);
	if (!client_call_active() && memory_is_userfault_change(command))
		return (int)memory_userfault_ioctl(fd, command, call.args[2], forward_ioctl);
	return (int)forward_ioctl(fd, command, call.args[2]);
}

INTERPOSED ssize_t read(int fd, void *dst, size_t size_bytes)
{
	return ENTRY(SYS_read, REAL(read)(fd, dst, size_bytes), ARGUMENT(fd), ARGUMENT(dst),
		     size_bytes);
}

INTERPOSED ssize_t pread(int fd, void *dst, size_t size_bytes, off_t offset)
{
	return ENTRY(SYS_pread64, REAL(pread)(fd, dst, size_bytes, offset), ARGUMENT(fd),
		     ARGUMENT(dst), size_bytes, ARGUMENT(offset));
}
INTERPOSED_ALIAS("pread") ssize_t pread64(int fd, void *dst, size_t size_bytes, off_t offset);

INTERPOSED ssize_t __read_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes)
{
	if (size_bytes > room_bytes)
		return REAL(__read_chk)(fd, dst, size_bytes, room_bytes);
	return read(fd, dst, size_bytes);
}

INTERPOSED ssize_t __pread_chk(int fd, void *dst, size_t size_bytes, off_t offset,
			       size_t room_bytes)
{
	if (size_bytes > room_bytes)
		return REAL(__pread_chk)(fd, dst, size_bytes, offset, room_bytes);
	return pread(fd, dst, size_bytes, offset);
}
INTERPOSED_ALIAS("__pread_chk")
ssize_t __pread64_chk(int fd, void *dst, size_t size_bytes, off_t offset, size_t room_bytes);

INTERPOSED ssize_t readv(int fd, const struct iovec *parts, int count)
{
	return ENTRY(SYS_readv, REAL(readv)(fd, parts, count), ARGUMENT(fd), ARGUMENT(parts),
		     ARGUMENT(count));
}

INTERPOSED ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset)
{
	return ENTRY(SYS_preadv, REAL(preadv)(fd, parts, count, offset), ARGUMENT(fd),
		     ARGUMENT(parts), ARGUMENT(count), ARGUMENT(offset));
}
INTERPOSED_ALIAS("preadv")
ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t offset);

INTERPOSED ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	return ENTRY(SYS_preadv2, REAL(preadv2)(fd, parts, count, offset, flags), ARGUMENT(fd),
		     ARGUMENT(parts), ARGUMENT(count), ARGUMENT(offset), 0, ARGUMENT(flags));
}
INTERPOSED_ALIAS("preadv2")
ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags);

INTERPOSED ssize_t write(int fd, const void *src, size_t size_bytes)
{
	return WRITE_ENTRY(SYS_write, REAL(write)(fd, src, size_bytes), ARGUMENT(fd), ARGUMENT(src),
			   size_bytes);
}

INTERPOSED ssize_t writev(int fd, const struct iovec *parts, int count)
{
	return WRITE_ENTRY(SYS_writev, REAL(writev)(fd, parts, count), ARGUMENT(fd),
			   ARGUMENT(parts), ARGUMENT(count));
}

INTERPOSED ssize_t pwrite(int fd, const void *src, size_t size_bytes, off_t offset)
{
	return WRITE_ENTRY(SYS_pwrite64, REAL(pwrite)(fd, src, size_bytes, offset), ARGUMENT(fd),
			   ARGUMENT(src), size_bytes, ARGUMENT(offset));
}
INTERPOSED_ALIAS("pwrite")
ssize_t pwrite64(int fd, const void *src, size_t size_bytes, off_t offset);

INTERPOSED ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
	return WRITE_ENTRY(SYS_pwritev, REAL(pwritev)(fd, parts, count, offset), ARGUMENT(fd),
			   ARGUMENT(parts), ARGUMENT(count), ARGUMENT(offset));
}
INTERPOSED_ALIAS("pwritev")
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset);

INTERPOSED ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
	return WRITE_ENTRY(SYS_pwritev2, REAL(pwritev2)(fd, parts, count, offset, flags),
			   ARGUMENT(fd), ARGUMENT(parts), ARGUMENT(count), ARGUMENT(offset), 0,
			   ARGUMENT(flags));
}
INTERPOSED_ALIAS("pwritev2")
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags);

INTERPOSED off_t lseek(int fd, off_t offset, int whence)
{
	return ENTRY(SYS_lseek, REAL(lseek)(fd, offset, whence), ARGUMENT(fd), ARGUMENT(offset),
		     ARGUMENT(whence));
}
INTERPOSED_ALIAS("lseek") off_t lseek64(int fd, off_t offset, int whence);

INTERPOSED int fallocate(int fd, int mode, off_t offset, off_t size_bytes)
{
	return ENTRY(SYS_fallocate, REAL(fallocate)(fd, mode, offset, size_bytes), ARGUMENT(fd),
		     ARGUMENT(mode), ARGUMENT(offset), ARGUMENT(size_bytes));
}
INTERPOSED_ALIAS("fallocate") int fallocate64(int fd, int mode, off_t offset, off_t size_bytes);

/* Returns its error, and where a file refuses it libc would write to each block instead. */
INTERPOSED int posix_fallocate(int fd, off_t offset, off_t size_bytes)
{
	const struct boundary_call call = {
	    .nr = SYS_fallocate,
	    .args = {ARGUMENT(fd), 0, ARGUMENT(offset), ARGUMENT(size_bytes)},
	};
	long result;

	if (!is_libc_alone() && boundary_try(&call, &result) == BOUNDARY_ANSWERED)
		return (int)-result;
	return REAL(posix_fallocate)(fd, offset, size_bytes);
}
INTERPOSED_ALIAS("posix_fallocate") int posix_fallocate64(int fd, off_t offset, off_t size_bytes);
