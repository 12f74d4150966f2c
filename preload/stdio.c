/*
 * Streams on objects of ours. libc reads and writes a stream's descriptor by calls of its own,
 * which find the inert file; so such a stream has functions that make the calls by our entries.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "boundary/object.h"
#include "frontend/file/user_copy.h"
#include "frontend/param/params.h"
#include "preload/entry.h"
#include "preload/shell.h"
#include "preload/wait.h"

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

/* The parameter that @fd is open on, or -ENOENT. */
static int parameter_of(int fd)
{
	int which;

	if (fd < 0 || client_call_active() || !params_any_open())
		return -ENOENT;
	client_call_begin();
	which = params_of_fd(fd);
	client_call_end();
	return which;
}

/* libc wrote to the parameter's file by a call that only libc saw. 0, or EOF and errno. */
static int look_again(int which)
{
	int error;

	client_call_begin();
	error = params_written(which);
	client_call_end();
	errno = error ? -error : errno;
	return error ? EOF : 0;
}

/* A stream of libc's own: standard output, where a shell led that to a parameter. */
INTERPOSED int fflush(FILE *stream)
{
	int fd = stream ? fileno_unlocked(stream) : -1, which = parameter_of(fd);
	int result = REAL(fflush)(stream);

	if (which < 0 || result)
		return result;
	result = look_again(which);
	/* sysfs takes a line wherever it is written; the file takes it at its start. */
	(void)REAL(lseek)(fd, 0, SEEK_SET);
	if (result)
		stream->_flags |= _IO_ERR_SEEN;
	return result;
}

INTERPOSED int fclose(FILE *stream)
{
	int which = parameter_of(fileno_unlocked(stream));
	bool waits = shell_has_stream(stream);
	int result = REAL(fclose)(stream);

	if (waits)
		wait_is_over();
	return which < 0 || result ? result : look_again(which);
}

/* libc writes past us here, too. */
INTERPOSED int vdprintf(int fd, const char *format, va_list arguments)
{
	int which = parameter_of(fd);
	int result = REAL(vdprintf)(fd, format, arguments);

	if (which < 0 || result <= 0)
		return result;
	(void)REAL(lseek)(fd, 0, SEEK_SET);
	return look_again(which) ? -1 : result;
}

INTERPOSED int dprintf(int fd, const char *format, ...)
{
	va_list arguments;
	int result;

	va_start(arguments, format);
	result = vdprintf(fd, format, arguments);
	va_end(arguments);
	return result;
}

static bool is_written_parameter(int fd)
{
	return parameter_of(fd) >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
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
	return is_object(fd) || is_written_parameter(fd) ? open_stream(fd, text)
							 : REAL(fdopen)(fd, mode);
}
