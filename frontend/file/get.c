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
	struct file_ending ending;
	bool is_ours = file_ending_one(fd, &ending);

	close(fd);
	numbers_changed(fd);
	if (is_ours)
		file_closed(&ending);
}

/* The next of our files that is mapped from *@from on, with a reference; *@from is its end. By the
 * kernel's list, for a mapping has no other name. */
static struct file *next_mapped(uint64_t *from, uint64_t end)
{
	struct maps_file mapping;
	struct file *file = NULL;

	while (!file && *from < end && !maps_next_file(*from, &mapping) && mapping.start < end) {
		file = file_find(makedev((unsigned int)(mapping.device >> 20),
					 (unsigned int)(mapping.device & 0xfffff)),
				 mapping.inode);
		*from = mapping.end;
	}
	return file;
}

int file_settle(uintptr_t start, uintptr_t end)
{
	uint64_t from = start;
	struct file *file;
	int error = 0;

	while (!error && (file = next_mapped(&from, end)) != NULL) {
		if (file_ops_of(file)->settle)
			error = file_ops_of(file)->settle(file, start, end);
		file_put(file);
	}
	return error;
}

bool file_is_gmem(uintptr_t start, uintptr_t end)
{
	uint64_t from = start;
	bool all = file_any() && file_may_be_mapped(start, end);

	while (all && from < end) {
		struct file *file = next_mapped(&from, from + 1);

		all = file && file_ops_of(file)->kind == FILE_GMEM;
		if (file)
			file_put(file);
	}
	return all;
}

bool file_all_take_userfaults(uintptr_t start, uintptr_t end)
{
	uint64_t from = start;
	struct file *file;
	bool all = true;

	if (!file_may_be_mapped(start, end))
		return true;
	while (all && (file = next_mapped(&from, end)) != NULL) {
		all = file_ops_of(file)->takes_userfaults &&
		      file_ops_of(file)->takes_userfaults(file);
		file_put(file);
	}
	return all;
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
