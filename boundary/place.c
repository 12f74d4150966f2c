/* What a client's path leads to: /dev/kvm by its object, the parameters of KVM's modules by name.
 */
#include "boundary/place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "boundary/call.h"
#include "boundary/node.h"
#include "frontend/file/client_call.h"
#include "frontend/file/user_copy.h"

/* As many as the kernel follows. */
#define LINKS_MAX 40
/* A path as long as the kernel takes, and what cut_last() puts before its last component. */
#define ROOM_BYTES (PATH_MAX + 8)
/* Enough of a path to tell whether it can be a parameter: "/sys/module/kvm" is the longest. */
#define HEAD_BYTES 17

static long open_place(int directory, unsigned long path, int flags)
{
	return BOUNDARY_KERNEL(SYS_openat, (unsigned long)directory, path,
			       (unsigned long)(O_PATH | O_CLOEXEC | flags));
}

static void close_place(long fd)
{
	if (fd >= 0)
		(void)BOUNDARY_KERNEL(SYS_close, (unsigned long)fd);
}

/* The last component of @text, cut off it; what is before it stays, or "." */
static const char *cut_last(char *text)
{
	char *slash = strrchr(text, '/');
	static char here[] = ".";

	if (!slash) {
		memmove(text + sizeof(here), text, strlen(text) + 1);
		memcpy(text, here, sizeof(here));
		return text + sizeof(here);
	}
	if (slash == text) {
		memmove(text + 2, text + 1, strlen(text));
		text[1] = '\0';
		return text + 2;
	}
	*slash = '\0';
	return slash + 1;
}

static bool is_dev(long directory)
{
	struct stat dev, found;

	return !BOUNDARY_KERNEL(SYS_stat, (unsigned long)"/dev", (unsigned long)&dev) &&
	       !BOUNDARY_KERNEL(SYS_fstat, (unsigned long)directory, (unsigned long)&found) &&
	       dev.st_dev == found.st_dev && dev.st_ino == found.st_ino;
}

/*
 * One step along the path in @text, from *directory: nonzero when the answer is known, in @is_kvm.
 * Else @text is what a link said, and *directory the folder that holds the link.
 */
static int step(long *directory, char text[ROOM_BYTES], const struct place *place, bool *is_kvm)
{
	const char *last = cut_last(text);
	long parent = open_place((int)*directory, (unsigned long)text, O_DIRECTORY), length;
	char link[ROOM_BYTES];

	*is_kvm = false;
	if (parent < 0)
		return 1;
	length = BOUNDARY_KERNEL(SYS_readlinkat, (unsigned long)parent, (unsigned long)last,
				 (unsigned long)link, sizeof(link) - 8);
	if (length < 0 || place->links == PLACE_NOFOLLOW) {
		*is_kvm = length < 0 && !strcmp(last, "kvm") && is_dev(parent);
		close_place(parent);
		return 1;
	}
	if (*directory != place->directory)
		close_place(*directory);
	*directory = parent;
	memcpy(text, link, (size_t)length);
	text[length] = '\0';
	return 0;
}

/* The path leads nowhere. Is where it ends the device's place? */
static bool is_missing_place(const struct place *place, char text[ROOM_BYTES])
{
	long directory = place->directory;
	bool is_kvm = false;

	for (int links = 0; links < LINKS_MAX; links++)
		if (step(&directory, text, place, &is_kvm))
			break;
	if (directory != place->directory)
		close_place(directory);
	return is_kvm;
}

/* A path of the client's with room for one more component, or false. */
static bool copy_path(const struct place *place, char text[ROOM_BYTES])
{
	long length = user_peek_string(text, PATH_MAX + 1, place->path);

	return length > 0 && length < PATH_MAX;
}

bool place_is_missing_kvm(const struct place *place)
{
	char text[ROOM_BYTES];
	const char *slash;

	if (!copy_path(place, text))
		return false;
	slash = strrchr(text, '/');
	if (strcmp(slash ? slash + 1 : text, "kvm") &&
	    BOUNDARY_KERNEL(SYS_readlinkat, (unsigned long)place->directory, (unsigned long)text,
			    (unsigned long)(char[1]){0}, 1) < 0)
		return false;
	/* It may be there after all. */
	if (!BOUNDARY_KERNEL(SYS_faccessat, (unsigned long)place->directory, (unsigned long)text,
			     F_OK))
		return false;
	return is_missing_place(place, text);
}

bool place_is_kvm(const struct place *place)
{
	long fd = open_place(place->directory, place->path,
			     place->links == PLACE_NOFOLLOW ? O_NOFOLLOW : 0);
	bool answer;

	if (fd < 0)
		return fd == -ENOENT && place_is_missing_kvm(place);
	answer = node_is_kvm((int)fd);
	close_place(fd);
	return answer;
}

bool place_may_be_kvm(long error)
{
	switch (error) {
	case -ENOENT: /* no device node */
	case -ENXIO:  /* one without a driver */
	case -ENODEV:
	case -EACCES: /* one that is not for this user, or not for this container */
	case -EPERM:
		return true;
	default:
		return false;
	}
}

bool place_is_parameter(const struct place *place, char room[PARAMS_PATH_MAX])
{
	char text[PARAMS_PATH_MAX];
	long length;
	bool answer;

	if (user_peek_string(text, HEAD_BYTES, place->path) < 0 || !params_covers(text))
		return false;
	length = user_peek_string(text, sizeof(text), place->path);
	if (length < 0 || (size_t)length == sizeof(text) - 1)
		return false;
	client_call_begin();
	answer = params_path(text, room) == room;
	client_call_end();
	return answer;
}
