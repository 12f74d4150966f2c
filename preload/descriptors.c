/* Calls on a descriptor: which ones are ours, and what they answer. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "frontend/file.h"
#include "frontend/params.h"
#include "frontend/signal_actions.h"
#include "preload/memory.h"
#include "preload/real.h"

ssize_t __read_chk(int fd, void *dst, size_t size_bytes, size_t room_bytes);
ssize_t __pread_chk(int fd, void *dst, size_t size_bytes, off_t offset, size_t room_bytes);
ssize_t __pread64_chk(int fd, void *dst, size_t size_bytes, off_t offset, size_t room_bytes);

/*
 * The file behind a client's descriptor, inside a client call that client_file_put() ends; NULL,
 * outside of one, when the call is to be forwarded.
 */
static struct file *client_file_get(int fd)
{
	struct file *file;

	if (client_call_active() || !file_any())
		return NULL;
	client_call_begin();
	file = file_get(fd);
	if (!file)
		client_call_end();
	return file;
}

static void client_file_put(struct file *file)
{
	file_put(file);
	client_call_end();
}

static long forward_ioctl(int fd, unsigned long command, unsigned long argument)
{
	/* The run's filter refuses KVM's with another errno: here they find a file that has none.
	 */
	if (_IOC_TYPE((uint32_t)command) == KVMIO)
		return REAL(fcntl)(fd, F_GETFL) < 0 ? -1 : real_result(-ENOTTY);
	return REAL(ioctl)(fd, command, argument);
}

INTERPOSED int ioctl(int fd, unsigned long command, ...)
{
	unsigned long argument;
	struct file *file;
	va_list arguments;
	long result;

	va_start(arguments, command);
	argument = va_arg(arguments, unsigned long);
	va_end(arguments);
	file = client_file_get(fd);
	if (!file) {
		if (!client_call_active() && memory_is_userfault_change(command))
			return (int)memory_userfault_ioctl(fd, command, argument, forward_ioctl);
		return (int)forward_ioctl(fd, command, argument);
	}
	signal_thread_prepare();
	params_refresh();
	result = file_ops_of(file)->ioctl
		     ? file_ops_of(file)->ioctl(file, (uint32_t)command, argument)
		     : -ENOTTY;
	client_file_put(file);
	return (int)real_result(result);
}

/* Statistics are read; everything else of ours has no contents. */
static bool is_readable(const struct file *file)
{
	return file_ops_of(file)->read_at != NULL;
}

/* The offset of the client's open file description is kept by the kernel, in the memfd. */
static ssize_t read_sequential(struct file *file, int fd, void *dst, size_t size_bytes)
{
	off_t offset = lseek(fd, 0, SEEK_CUR);
	ssize_t got = file_ops_of(file)->read_at(file, dst, size_bytes, offset);

	if (got > 0)
		lseek(fd, offset + got, SEEK_SET);
	return got;
}

INTERPOSED ssize_t read(int fd, void *dst, size_t size_bytes)
{
	struct file *file = client_file_get(fd);
	ssize_t result;

	if (!file)
		return REAL(read)(fd, dst, size_bytes);
	result = is_readable(file) ? read_sequential(file, fd, dst, size_bytes) : -EINVAL;
	client_file_put(file);
	return real_result(result);
}

INTERPOSED ssize_t pread(int fd, void *dst, size_t size_bytes, off_t offset)
{
	struct file *file = client_file_get(fd);
	ssize_t result;

	if (!file)
		return REAL(pread)(fd, dst, size_bytes, offset);
	if (offset < 0)
		result = -EINVAL;
	else if (is_readable(file))
		result = file_ops_of(file)->read_at(file, dst, size_bytes, offset);
	else
		result = -ESPIPE;
	client_file_put(file);
	return real_result(result);
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
	struct file *file = client_file_get(fd);
	ssize_t total = 0, got = 0;

	if (!file)
		return REAL(readv)(fd, parts, count);
	if (!is_readable(file) || count < 0 || count > IOV_MAX)
		got = -EINVAL;
	for (int i = 0; got >= 0 && i < count; i++) {
		got = read_sequential(file, fd, parts[i].iov_base, parts[i].iov_len);
		if (got > 0)
			total += got;
		if (got >= 0 && (size_t)got < parts[i].iov_len)
			break;
	}
	client_file_put(file);
	return real_result(total || got >= 0 ? total : got);
}

/* The contents of a client's write to the file of a parameter; -ENOENT when it is no such file. */
static ssize_t parameter_write(int fd, const void *src, size_t size_bytes)
{
	ssize_t result;

	if (client_call_active())
		return -ENOENT;
	client_call_begin();
	result = params_write(fd, src, size_bytes);
	client_call_end();
	return result;
}

INTERPOSED ssize_t write(int fd, const void *src, size_t size_bytes)
{
	ssize_t result = parameter_write(fd, src, size_bytes);
	struct file *file;

	if (result != -ENOENT)
		return real_result(result);
	file = client_file_get(fd);
	if (!file)
		return REAL(write)(fd, src, size_bytes);
	/* A read-only description (statistics) says so; the others have no write(). */
	result = is_readable(file) ? -EBADF : -EINVAL;
	client_file_put(file);
	return real_result(result);
}

INTERPOSED ssize_t writev(int fd, const struct iovec *parts, int count)
{
	struct file *file = client_file_get(fd);
	ssize_t result;

	if (!file)
		return REAL(writev)(fd, parts, count);
	result = is_readable(file) ? -EBADF : -EINVAL;
	client_file_put(file);
	return real_result(result);
}

INTERPOSED ssize_t pwrite(int fd, const void *src, size_t size_bytes, off_t offset)
{
	struct file *file = client_file_get(fd);
	ssize_t result;

	if (!file)
		return REAL(pwrite)(fd, src, size_bytes, offset);
	result = is_readable(file) ? -EBADF : -ESPIPE;
	client_file_put(file);
	return real_result(result);
}
INTERPOSED_ALIAS("pwrite")
ssize_t pwrite64(int fd, const void *src, size_t size_bytes, off_t offset);

INTERPOSED off_t lseek(int fd, off_t offset, int whence)
{
	struct file *file = client_file_get(fd);
	off_t result;

	if (!file)
		return REAL(lseek)(fd, offset, whence);
	/* Seeking in statistics is accepted and moves nothing. */
	result = is_readable(file) ? REAL(lseek)(fd, 0, SEEK_CUR) : -ESPIPE;
	client_file_put(file);
	return real_result(result);
}
INTERPOSED_ALIAS("lseek") off_t lseek64(int fd, off_t offset, int whence);

INTERPOSED int ftruncate(int fd, off_t size_bytes)
{
	struct file *file = client_file_get(fd);

	if (!file)
		return REAL(ftruncate)(fd, size_bytes);
	client_file_put(file);
	return (int)real_result(-EINVAL);
}
INTERPOSED_ALIAS("ftruncate") int ftruncate64(int fd, off_t size_bytes);

INTERPOSED int fchmod(int fd, mode_t mode)
{
	struct file *file = client_file_get(fd);

	if (!file)
		return REAL(fchmod)(fd, mode);
	client_file_put(file);
	return (int)real_result(-EINVAL);
}

INTERPOSED int fchown(int fd, uid_t owner, gid_t group)
{
	struct file *file = client_file_get(fd);

	if (!file)
		return REAL(fchown)(fd, owner, group);
	client_file_put(file);
	return (int)real_result(-EINVAL);
}

INTERPOSED int futimens(int fd, const struct timespec times[2])
{
	struct file *file = client_file_get(fd);

	if (!file)
		return REAL(futimens)(fd, times);
	client_file_put(file);
	return (int)real_result(-EINVAL);
}

/* What the kernel checks before it asks the file. */
static int allocate_check(int mode, off_t offset, off_t size_bytes)
{
	const int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE |
			  FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
	off_t end;

	if (offset < 0 || size_bytes <= 0)
		return -EINVAL;
	if (mode & ~known)
		return -EOPNOTSUPP;
	if ((mode & FALLOC_FL_PUNCH_HOLE) && !(mode & FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (__builtin_add_overflow(offset, size_bytes, &end))
		return -EFBIG;
	return 0;
}

/* An allocation or a punch that succeeded shows in the times of the file. */
static void touch_times(int fd)
{
	static const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_NOW}};

	(void)!REAL(futimens)(fd, times);
}

INTERPOSED int fallocate(int fd, int mode, off_t offset, off_t size_bytes)
{
	struct file *file = client_file_get(fd);
	int result;

	if (!file)
		return REAL(fallocate)(fd, mode, offset, size_bytes);
	result = allocate_check(mode, offset, size_bytes);
	if (!result && !file_ops_of(file)->allocate)
		result = -EOPNOTSUPP;
	if (!result)
		result = file_ops_of(file)->allocate(file, mode, offset, size_bytes);
	if (!result)
		touch_times(fd);
	client_file_put(file);
	return (int)real_result(result);
}
INTERPOSED_ALIAS("fallocate") int fallocate64(int fd, int mode, off_t offset, off_t size_bytes);

INTERPOSED int posix_fallocate(int fd, off_t offset, off_t size_bytes)
{
	struct file *file = client_file_get(fd);

	if (!file)
		return REAL(posix_fallocate)(fd, offset, size_bytes);
	client_file_put(file);
	/* Mode 0 is refused by all of ours, and this function returns its error. */
	return allocate_check(0, offset, size_bytes) ? EINVAL : EOPNOTSUPP;
}
INTERPOSED_ALIAS("posix_fallocate") int posix_fallocate64(int fd, off_t offset, off_t size_bytes);

INTERPOSED ssize_t sendfile(int out, int in, off_t *offset, size_t size_bytes)
{
	struct file *file = client_file_get(in);

	if (!file)
		file = client_file_get(out);
	if (!file)
		return REAL(sendfile)(out, in, offset, size_bytes);
	client_file_put(file);
	return real_result(-EINVAL);
}
INTERPOSED_ALIAS("sendfile")
ssize_t sendfile64(int out, int in, off_t *offset, size_t size_bytes);

INTERPOSED ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size_bytes,
			  unsigned int flags)
{
	struct file *file = client_file_get(in);

	if (!file)
		file = client_file_get(out);
	if (!file)
		return REAL(splice)(in, in_offset, out, out_offset, size_bytes, flags);
	client_file_put(file);
	return real_result(-EINVAL);
}
