/*
 * Opens that posix_spawn(3) makes in its child, inside libc. /dev/kvm becomes a duplicate of a
 * descriptor that this process keeps for that: the machine's own may be missing, not for this user,
 * or on a mount without devices, which no question but the open itself tells.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <unistd.h>

#include "boundary/node.h"
#include "boundary/place.h"
#include "frontend/file/numbers.h"
#include "preload/entry.h"

/* Where a client looks last. libc takes no number past the limit. */
#define NUMBER_MAX 1024u

/* -1: none yet. Close-on-exec; its duplicates are not. */
static int kept = -1;

static int keep_number(void)
{
	struct rlimit limit = {NUMBER_MAX, NUMBER_MAX};

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur > NUMBER_MAX)
		limit.rlim_cur = NUMBER_MAX;
	return (int)(limit.rlim_cur - limit.rlim_cur / 8);
}

/* A descriptor of /dev/kvm for the children, or -errno. */
static int keep_device(void)
{
	int now = __atomic_load_n(&kept, __ATOMIC_ACQUIRE), low, none = -1;

	if (now >= 0 && node_is_kvm(now))
		return now;
	low = (int)node_open(O_RDWR | O_CLOEXEC);
	if (low < 0)
		return low;
	now = fcntl(low, F_DUPFD_CLOEXEC, keep_number());
	close(low);
	if (now < 0)
		return -errno;
	if (!__atomic_compare_exchange_n(&kept, &none, now, 0, __ATOMIC_RELEASE, __ATOMIC_ACQUIRE))
		__atomic_store_n(&kept, now, __ATOMIC_RELEASE);
	return now;
}

static bool is_kvm(const char *path, int flags)
{
	const struct place place = {AT_FDCWD, (unsigned long)path,
				    flags & O_NOFOLLOW ? PLACE_NOFOLLOW : PLACE_FOLLOW};

	return !client_call_active() && place_is_kvm(&place);
}

INTERPOSED int posix_spawn_file_actions_addopen(posix_spawn_file_actions_t *actions, int fd,
						const char *path, int flags, mode_t mode)
{
	int device;

	if (!is_kvm(path, flags))
		return REAL(posix_spawn_file_actions_addopen)(actions, fd, path, flags, mode);
	device = keep_device();
	return device < 0 ? -device : posix_spawn_file_actions_adddup2(actions, device, fd);
}
