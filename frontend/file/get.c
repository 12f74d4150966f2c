/* The file behind a descriptor: of which kind, and only where the description is KVM's own. */
#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "frontend/file/file.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/numbers.h"
#include "hosts/process/maps.h"
#include "hosts/process/sys.h"

bool file_is_path(int fd)
{
	return sys_call(SYS_fcntl, (uint64_t)fd, F_GETFL) & O_PATH;
}

struct file *file_get(int fd)
{
	struct file *file = file_get_path(fd);

	if (!file || !file_is_path(fd))
		return file;
	file_put(file);
	return NULL;
}

struct file *file_get_kind(int fd, const struct file_ops *ops)
{
	struct file *file = file_get(fd);

	if (!file || file_ops_of(file) == ops)
		return file;
	file_put(file);
	return NULL;
}

void file_close(int fd)
{
	struct file *file = file_get(fd);

	close(fd);
	numbers_changed(fd);
	if (!file)
		return;
	file_closed(file);
	file_put(file);
}

/* By the kernel's list, for a mapping has no other name. */
void file_settle(uintptr_t start, uintptr_t end)
{
	struct maps_file mapping;
	uint64_t from = start;

	while (from < end && !maps_next_file(from, &mapping) && mapping.start < end) {
		struct file *file = file_find(makedev((unsigned int)(mapping.device >> 20),
						      (unsigned int)(mapping.device & 0xfffff)),
					      mapping.inode);

		if (file && file_ops_of(file)->settle)
			(void)file_ops_of(file)->settle(file, start, end);
		if (file)
			file_put(file);
		from = mapping.end;
	}
}

bool file_hidden_any(void)
{
	return hidden_fd_any();
}

bool file_is_hidden(int fd)
{
	return hidden_fd_is(fd);
}

int file_hidden_next(int from)
{
	return hidden_fd_next(from);
}
