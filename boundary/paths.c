/* Calls that name a path: /dev/kvm is ours by what it is, the parameters of KVM's modules by name.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "boundary/links.h"
#include "boundary/node.h"
#include "boundary/place.h"
#include "boundary/rows.h"
#include "frontend/file/client_call.h"
#include "frontend/file/numbers.h"
#include "frontend/file/user_copy.h"

#define HERE ((unsigned long)AT_FDCWD)

/* An open of whichever number. */
struct opening {
	struct place place;
	int flags;
	unsigned long mode;
};

/* False when the client's structure cannot be read: the kernel says so. */
static bool decode_open(const struct boundary_call *call, struct opening *opening)
{
	const unsigned long *args = call->args;
	struct open_how how;

	switch (call->nr) {
	case SYS_open:
		*opening = (struct opening){{AT_FDCWD, args[0], 0}, (int)args[1], args[2]};
		break;
	case SYS_creat:
		*opening =
		    (struct opening){{AT_FDCWD, args[0], 0}, O_CREAT | O_WRONLY | O_TRUNC, args[1]};
		break;
	case SYS_openat2:
		if (args[3] < sizeof(how) || user_peek(&how, args[2], sizeof(how)))
			return false;
		*opening = (struct opening){{(int)args[0], args[1], 0}, (int)how.flags, how.mode};
		break;
	default:
		*opening = (struct opening){{(int)args[0], args[1], 0}, (int)args[2], args[3]};
		break;
	}
	opening->place.links = opening->flags & O_NOFOLLOW ? PLACE_NOFOLLOW : PLACE_FOLLOW;
	return true;
}

static long open_parameter(const struct opening *opening, const char *room)
{
	int flags;
	long fd;

	client_call_begin();
	flags = params_open_flags(room, opening->flags);
	client_call_end();
	if (flags < 0)
		return flags;
	fd = BOUNDARY_KERNEL(SYS_openat, HERE, (unsigned long)room, (unsigned long)flags,
			     opening->mode);
	numbers_changed((int)fd);
	return fd;
}

long path_open(const struct boundary_call *call)
{
	char room[PARAMS_PATH_MAX];
	struct opening opening;

	if (!decode_open(call, &opening))
		return OBJECT_FORWARD;
	if (place_is_parameter(&opening.place, room))
		return open_parameter(&opening, room);
	/* The kernel would make a file of that name. */
	if ((opening.flags & O_CREAT) && place_is_missing_kvm(&opening.place))
		return node_open(opening.flags);
	return OBJECT_FORWARD;
}

/* An object cannot be opened again by way of /proc; the device can. */
static long reopened(long fd, int flags)
{
	struct file *file;
	long result = fd;

	if (!file_any() || (flags & O_PATH))
		return fd;
	file = client_object_get((int)fd);
	if (!file)
		return fd;
	result = file_ops_of(file)->kind == FILE_KVM ? 0 : -ENXIO;
	client_object_put(file);
	links_close((int)fd);
	return result ? result : node_open(flags);
}

/* A sealed size refuses O_TRUNC before it could be told that there is no open at all. */
static long opened_without(const struct opening *opening)
{
	long fd = BOUNDARY_KERNEL(SYS_openat, (unsigned long)opening->place.directory,
				  opening->place.path,
				  (unsigned long)((opening->flags & ~O_TRUNC) | O_CLOEXEC));
	long result;

	if (fd < 0)
		return -EPERM;
	result = reopened(fd, opening->flags);
	if (result != fd)
		return result;
	links_close((int)fd);
	return -EPERM;
}

long path_open_settle(const struct boundary_call *call, long result)
{
	struct opening opening;

	if ((result < 0 && !place_may_be_kvm(result)) || !decode_open(call, &opening))
		return result;
	if (result >= 0)
		return reopened(result, opening.flags);
	if (opening.flags & O_PATH)
		return result;
	if (result == -EPERM && (opening.flags & O_TRUNC) && file_any())
		return opened_without(&opening);
	return place_is_kvm(&opening.place) ? node_open(opening.flags) : result;
}

/* Where the path argument of a call that only looks is, and what says that a link is meant. */
static struct place place_of(const struct boundary_call *call)
{
	const unsigned long *args = call->args;

	switch (call->nr) {
	case SYS_stat:
	case SYS_access:
	case SYS_chdir:
		return (struct place){AT_FDCWD, args[0], PLACE_FOLLOW};
	case SYS_lstat:
		return (struct place){AT_FDCWD, args[0], PLACE_NOFOLLOW};
	case SYS_faccessat:
		return (struct place){(int)args[0], args[1], PLACE_FOLLOW};
	case SYS_statx:
		return (struct place){(int)args[0], args[1],
				      args[2] & AT_SYMLINK_NOFOLLOW ? PLACE_NOFOLLOW
								    : PLACE_FOLLOW};
	default: /* newfstatat, faccessat2 */
		return (struct place){(int)args[0], args[1],
				      args[3] & AT_SYMLINK_NOFOLLOW ? PLACE_NOFOLLOW
								    : PLACE_FOLLOW};
	}
}

/* The argument that is the path. */
static unsigned int path_index(const struct boundary_call *call)
{
	switch (call->nr) {
	case SYS_stat:
	case SYS_lstat:
	case SYS_access:
	case SYS_chdir:
		return 0;
	default:
		return 1;
	}
}

/* A parameter is looked at where the run keeps it. */
long path_look(const struct boundary_call *call)
{
	const struct place place = place_of(call);
	struct boundary_call moved = *call;
	char room[PARAMS_PATH_MAX];

	if (!place_is_parameter(&place, room))
		return OBJECT_FORWARD;
	moved.args[path_index(call)] = (unsigned long)room;
	return boundary_kernel(&moved);
}

/* The device's status, into the client's structure at @address. */
static long fill_stat(unsigned long address)
{
	struct stat status = {
	    .st_mode = S_IFCHR | 0666,
	    .st_rdev = makedev(NODE_MAJOR, NODE_MINOR),
	    .st_nlink = 1,
	    .st_ino = NODE_MINOR,
	    .st_blksize = 4096,
	};

	return user_poke(address, &status, sizeof(status));
}

static long fill_statx(unsigned long address)
{
	struct statx status = {
	    .stx_mask = STATX_BASIC_STATS,
	    .stx_mode = S_IFCHR | 0666,
	    .stx_rdev_major = NODE_MAJOR,
	    .stx_rdev_minor = NODE_MINOR,
	    .stx_nlink = 1,
	    .stx_ino = NODE_MINOR,
	    .stx_blksize = 4096,
	};

	return user_poke(address, &status, sizeof(status));
}

/* A call that found no device, where the machine has none or keeps it from this user. */
long path_look_settle(const struct boundary_call *call, long result)
{
	const struct place place = place_of(call);

	if (!result)
		return link_status(call, &place);
	if (!place_may_be_kvm(result) || !place_is_kvm(&place))
		return result;
	switch (call->nr) {
	case SYS_stat:
	case SYS_lstat:
		return fill_stat(call->args[1]);
	case SYS_newfstatat:
		return fill_stat(call->args[2]);
	case SYS_statx:
		return fill_statx(call->args[4]);
	case SYS_access:
		return call->args[1] & X_OK ? -EACCES : 0;
	default: /* faccessat, faccessat2 */
		return call->args[2] & X_OK ? -EACCES : 0;
	}
}
