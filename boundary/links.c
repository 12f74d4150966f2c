/* Calls by a path that leads to an object: one of a link in /proc. */
#include "boundary/links.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "boundary/newer_calls.h"
#include "frontend/file/numbers.h"
#include "frontend/file/user_copy.h"

#define NAME_BYTES 96

void links_close(int fd)
{
	if (fd < 0)
		return;
	(void)BOUNDARY_KERNEL(SYS_close, (unsigned long)fd);
	/* What was looked at by this number is not what has it next. */
	numbers_changed(fd);
}

struct file *links_object(const struct place *place, int *fd)
{
	long opened = file_any() ? BOUNDARY_KERNEL(SYS_openat, (unsigned long)place->directory,
						   place->path, (unsigned long)(O_PATH | O_CLOEXEC))
				 : -ENOENT;

	*fd = (int)opened;
	return opened < 0 ? NULL : client_object_get_path(*fd);
}

/* The arguments of fstat, for the object's own answer at @address. */
static long status_by(const struct object_call *call, unsigned long address, long nr)
{
	const struct boundary_call by_fd = {
	    .nr = nr,
	    .args = {(unsigned long)call->fd, nr == SYS_fstat ? address : (unsigned long)"",
		     AT_EMPTY_PATH, STATX_BASIC_STATS, address},
	};
	const struct object_call itself = {.call = &by_fd, .file = call->file, .fd = call->fd};

	return nr == SYS_fstat ? status_fstat(&itself) : status_statx(&itself);
}

/* Only a file without a name can be one. */
static bool has_no_name(const struct boundary_call *call, unsigned long address)
{
	struct statx extended;
	struct stat status;

	if (call->nr == SYS_statx)
		return !user_peek(&extended, address, sizeof(extended)) && !extended.stx_nlink;
	return !user_peek(&status, address, sizeof(status)) && !status.st_nlink;
}

long link_status(const struct boundary_call *call, const struct place *place)
{
	struct object_call object = {.call = call};
	unsigned long address;
	long result = 0;

	if (!file_any() || place->links == PLACE_NOFOLLOW)
		return 0;
	switch (call->nr) {
	case SYS_stat:
		address = call->args[1];
		break;
	case SYS_newfstatat:
		address = call->args[2];
		break;
	case SYS_statx:
		address = call->args[4];
		break;
	default:
		return 0;
	}
	if (!has_no_name(call, address))
		return 0;
	object.file = links_object(place, &object.fd);
	if (object.file) {
		result = status_by(&object, address, call->nr == SYS_statx ? SYS_statx : SYS_fstat);
		client_object_put(object.file);
	}
	links_close(object.fd);
	return result;
}

static enum place_links follows(unsigned long flags)
{
	return flags & AT_SYMLINK_NOFOLLOW ? PLACE_NOFOLLOW : PLACE_FOLLOW;
}

/* Where the path is, and whether a link there is meant itself. */
static struct place place_of(const struct boundary_call *call)
{
	const unsigned long *args = call->args;

	switch (call->nr) {
	case SYS_fchmodat:
	case SYS_readlinkat:
	case SYS_futimesat:
		return (struct place){(int)args[0], args[1], PLACE_FOLLOW};
	case SYS_fchmodat2:
	case SYS_utimensat:
		return (struct place){(int)args[0], args[1], follows(args[3])};
	case SYS_fchownat:
		return (struct place){(int)args[0], args[1], follows(args[4])};
	default:
		return (struct place){AT_FDCWD, args[0], PLACE_FOLLOW};
	}
}

/* A change of the inode behind the path, or OBJECT_FORWARD. */
long link_change(const struct boundary_call *call)
{
	const struct place place = place_of(call);
	struct object_call object = {.call = call};
	long result = OBJECT_FORWARD;

	if (place.links == PLACE_NOFOLLOW || !place.path)
		return OBJECT_FORWARD;
	object.file = links_object(&place, &object.fd);
	if (object.file) {
		switch (call->nr) {
		case SYS_truncate: /* none is a regular file that can be cut */
			result = -EINVAL;
			break;
		case SYS_setxattr:
		case SYS_getxattr:
		case SYS_removexattr:
			result = attributes_extended(&object);
			break;
		default:
			result = attributes_change(&object);
		}
		client_object_put(object.file);
	}
	links_close(object.fd);
	return result;
}

/* The name that KVM's own file has in /proc, in the place of a memfd's. */
static int rename_memfd(const struct file *file, const char *found, char name[NAME_BYTES])
{
	static const char memfd[] = "/memfd:", gone[] = " (deleted)";
	int length = (int)(strlen(found) - strlen(memfd) - strlen(gone));

	switch (file_ops_of(file)->kind) {
	case FILE_KVM:
		return snprintf(name, NAME_BYTES, "/dev/kvm");
	case FILE_GMEM:
		return snprintf(name, NAME_BYTES, "/%.*s (deleted)", length, found + strlen(memfd));
	default:
		return snprintf(name, NAME_BYTES, "anon_inode:%.*s", length, found + strlen(memfd));
	}
}

/* readlink or readlinkat of a link in /proc to an object. */
long link_read(const struct boundary_call *call)
{
	unsigned int path = call->nr == SYS_readlinkat ? 1 : 0;
	const unsigned long *args = call->args;
	const struct place place = place_of(call);
	char found[NAME_BYTES], name[NAME_BYTES];
	long length, result = OBJECT_FORWARD;
	struct file *file;
	int fd;

	if (!file_any() || (int)args[path + 2] <= 0)
		return OBJECT_FORWARD;
	length = BOUNDARY_KERNEL(SYS_readlinkat, (unsigned long)place.directory, place.path,
				 (unsigned long)found, sizeof(found));
	if (length < 7 || length >= NAME_BYTES || memcmp(found, "/memfd:", 7))
		return OBJECT_FORWARD;
	found[length] = '\0';
	file = links_object(&place, &fd);
	links_close(fd);
	if (!file)
		return OBJECT_FORWARD;
	result = rename_memfd(file, found, name);
	if (result > (int)args[path + 2])
		result = (int)args[path + 2];
	if (user_copy_out(args[path + 1], name, (size_t)result))
		result = -EFAULT;
	client_object_put(file);
	return result;
}

/* The device is no link, where the machine has none either. */
long link_read_settle(const struct boundary_call *call, long result)
{
	struct place place = place_of(call);

	place.links = PLACE_NOFOLLOW;
	return result == -ENOENT && place_is_missing_kvm(&place) ? -EINVAL : result;
}
