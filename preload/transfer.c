/* Calls that bring a file's bytes to its disk or to another file: thin entries. */
#include <errno.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "preload/entry.h"

INTERPOSED int fsync(int fd)
{
	return ENTRY(SYS_fsync, REAL(fsync)(fd), ARGUMENT(fd));
}

INTERPOSED int fdatasync(int fd)
{
	return ENTRY(SYS_fdatasync, REAL(fdatasync)(fd), ARGUMENT(fd));
}

INTERPOSED int sync_file_range(int fd, off_t offset, off_t size_bytes, unsigned int flags)
{
	return ENTRY(SYS_sync_file_range, REAL(sync_file_range)(fd, offset, size_bytes, flags),
		     ARGUMENT(fd), ARGUMENT(offset), ARGUMENT(size_bytes), flags);
}

INTERPOSED ssize_t readahead(int fd, off_t offset, size_t size_bytes)
{
	return ENTRY(SYS_readahead, REAL(readahead)(fd, offset, size_bytes), ARGUMENT(fd),
		     ARGUMENT(offset), size_bytes);
}

INTERPOSED ssize_t copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset,
				   size_t size_bytes, unsigned int flags)
{
	return ENTRY(SYS_copy_file_range,
		     REAL(copy_file_range)(in, in_offset, out, out_offset, size_bytes, flags),
		     ARGUMENT(in), ARGUMENT(in_offset), ARGUMENT(out), ARGUMENT(out_offset),
		     size_bytes, flags);
}

INTERPOSED ssize_t sendfile(int out, int in, off_t *offset, size_t size_bytes)
{
	return ENTRY(SYS_sendfile, REAL(sendfile)(out, in, offset, size_bytes), ARGUMENT(out),
		     ARGUMENT(in), ARGUMENT(offset), size_bytes);
}
INTERPOSED_ALIAS("sendfile")
ssize_t sendfile64(int out, int in, off_t *offset, size_t size_bytes);

INTERPOSED ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size_bytes,
			  unsigned int flags)
{
	return ENTRY(SYS_splice, REAL(splice)(in, in_offset, out, out_offset, size_bytes, flags),
		     ARGUMENT(in), ARGUMENT(in_offset), ARGUMENT(out), ARGUMENT(out_offset),
		     size_bytes, flags);
}
