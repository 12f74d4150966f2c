/*
 * Streams on objects of ours. libc reads and writes a stream's descriptor by calls of its own,
 * which find the inert file; so such a stream has functions that make the calls by our entries.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "boundary/object.h"
#include "frontend/file/user_copy.h"
#include "preload/entry.h"

static int fd_of(void *cookie)
{
	return (int)(intptr_t)cookie;
}

static ssize_t stream_read(void *cookie, char *dst, size_t size_bytes)
{
	return read(fd_of(cookie), dst, size_bytes);
}

static ssize_t stream_write(void *cookie, const char *src, size_t size_bytes)
{
	return write(fd_of(cookie), src, size_bytes);
}

static int stream_seek(void *cookie, off64_t *offset, int whence)
{
	off_t result = lseek(fd_of(cookie), *offset, whence);

	if (result < 0)
		return -1;
	*offset = result;
	return 0;
}

static int stream_close(void *cookie)
{
	return close(fd_of(cookie));
}

static bool is_object(int fd)
{
	struct file *file = client_object_get(fd);

	if (file)
		client_object_put(file);
	return file != NULL;
}

/* Does the descriptor allow what @mode asks for? As fdopen(3) looks. */
static bool allows(int fd, const char *mode)
{
	int access = fcntl(fd, F_GETFL) & O_ACCMODE;
	int wanted = strchr(mode, '+') ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;

	return strchr("rwa", mode[0]) && (access == O_RDWR || access == wanted);
}

static FILE *open_stream(int fd, const char *mode)
{
	static const cookie_io_functions_t functions = {stream_read, stream_write, stream_seek,
							stream_close};
	char plain[3] = {mode[0], strchr(mode, '+') ? '+' : '\0', '\0'};
	FILE *stream;

	if (!allows(fd, mode)) {
		errno = EINVAL;
		return NULL;
	}
	stream = fopencookie((void *)(intptr_t)fd, plain, functions);
	/* What fileno(3) answers. */
	if (stream)
		stream->_fileno = fd;
	return stream;
}

INTERPOSED FILE *fdopen(int fd, const char *mode)
{
	char text[16];

	if (client_call_active())
		return REAL(fdopen)(fd, mode);
	if (user_peek_string(text, sizeof(text), (uintptr_t)mode) < 0) {
		errno = EFAULT;
		return NULL;
	}
	return is_object(fd) ? open_stream(fd, text) : REAL(fdopen)(fd, mode);
}
