/* Writes to the file of a module parameter, which is no object of ours: checked as sysfs does. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "boundary/rows.h"
#include "frontend/file/client_call.h"
#include "frontend/file/numbers.h"
#include "frontend/file/user_copy.h"
#include "frontend/param/params.h"
#include "hosts/process/sys.h"

/* What one call writes, its parts put together: its length, or -errno. */
static long gather(const struct boundary_call *call, char text[PARAMS_TEXT_MAX])
{
	const unsigned long *args = call->args;
	bool is_plain = call->nr == SYS_write || call->nr == SYS_pwrite64;
	struct iovec part = {(void *)args[1], args[2]};
	unsigned long count = is_plain ? 1 : args[2];
	size_t length = 0;

	if (count > IOV_MAX)
		return -EINVAL;
	for (unsigned long i = 0; i < count; i++) {
		if (!is_plain && user_peek(&part, args[1] + i * sizeof(part), sizeof(part)))
			return -EFAULT;
		if (part.iov_len >= PARAMS_TEXT_MAX - length)
			return -EINVAL;
		if (part.iov_len &&
		    user_peek(text + length, (uintptr_t)part.iov_base, part.iov_len))
			return -EFAULT;
		length += part.iov_len;
	}
	return (long)length;
}

/* A parameter has one line, wherever the write says it begins. */
static bool is_before_the_start(const struct boundary_call *call)
{
	off_t offset = (off_t)call->args[3];

	switch (call->nr) {
	case SYS_pwrite64:
	case SYS_pwritev:
		return offset < 0;
	case SYS_pwritev2:
		return offset < -1;
	default:
		return false;
	}
}

static bool is_open_for_writing(int fd)
{
	long flags = sys_call(SYS_fcntl, (uint64_t)fd, F_GETFL);

	return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != O_RDONLY;
}

static long write_one(const struct boundary_call *call, int which)
{
	char text[PARAMS_TEXT_MAX];
	long length;

	if (is_before_the_start(call))
		return -EINVAL;
	if (!is_open_for_writing((int)call->args[0]))
		return -EBADF;
	length = gather(call, text);
	/* Nothing at all is no value, and no error. */
	return length <= 0 ? length : params_write(which, (int)call->args[0], text, (size_t)length);
}

long parameter_write(const struct boundary_call *call)
{
	int fd = (int)call->args[0], which;
	long result = OBJECT_FORWARD;
	uint64_t sample;

	if (numbers_lack(fd, NUMBER_NO_PARAMETER))
		return OBJECT_FORWARD;
	client_call_begin();
	sample = numbers_sample(fd);
	which = params_of_fd(fd);
	if (which < 0)
		numbers_learn_lack(fd, NUMBER_NO_PARAMETER, sample);
	else
		result = write_one(call, which);
	client_call_end();
	return result;
}
