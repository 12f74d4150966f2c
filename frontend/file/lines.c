/* Lines of the kernel's texts in /proc. */
#include "frontend/file/lines.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#include "frontend/file/hidden_fd.h"
#include "hosts/process/sys.h"

/* A text being read, and the line that has come so far. */
struct text {
	bool (*line)(void *context, const char *text);
	void *context;
	size_t length;
	char now[LINES_BYTES];
};

/* Returns whether more is wanted. */
static bool take(struct text *text, const char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (bytes[i] != '\n') {
			if (text->length < sizeof(text->now) - 1)
				text->now[text->length++] = bytes[i];
			continue;
		}
		text->now[text->length] = '\0';
		text->length = 0;
		if (!text->line(text->context, text->now))
			return false;
	}
	return true;
}

long lines_open(const char *path)
{
	long fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(path), O_RDONLY | O_CLOEXEC);

	if (fd < 0 && hidden_fd_kept_proc() >= 0)
		fd = sys_call(SYS_openat, (uint64_t)hidden_fd_kept_proc(),
			      sys_address(path + sizeof("/proc/") - 1), O_RDONLY | O_CLOEXEC);
	return fd;
}

int lines_read(const char *path, bool (*line)(void *context, const char *text), void *context)
{
	struct text text = {.line = line, .context = context};
	long fd = lines_open(path);
	char bytes[1024];
	long got;

	if (fd < 0)
		return (int)fd;
	do
		got = sys_call(SYS_read, (uint64_t)fd, sys_address(bytes), sizeof(bytes));
	while (got > 0 && take(&text, bytes, (size_t)got));
	sys_call(SYS_close, (uint64_t)fd);
	return got < 0 ? (int)got : 0;
}
