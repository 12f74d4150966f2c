/* Calls that lead to another root or take /proc away: what KVM's first use needs may be out of
 * reach there. */
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "preload/entry.h"

INTERPOSED int chroot(const char *path)
{
	return ENTRY_ON_PATH(SYS_chroot, REAL(chroot)(path), ARGUMENT(path));
}

INTERPOSED int setns(int fd, int kind)
{
	return ENTRY_ON_PATH(SYS_setns, REAL(setns)(fd, kind), ARGUMENT(fd), ARGUMENT(kind));
}

INTERPOSED int mount(const char *source, const char *target, const char *type, unsigned long flags,
		     const void *data)
{
	return ENTRY_ON_PATH(SYS_mount, REAL(mount)(source, target, type, flags, data),
			     ARGUMENT(source), ARGUMENT(target), ARGUMENT(type), flags,
			     ARGUMENT(data));
}

INTERPOSED int umount2(const char *target, int flags)
{
	return ENTRY_ON_PATH(SYS_umount2, REAL(umount2)(target, flags), ARGUMENT(target),
			     ARGUMENT(flags));
}

INTERPOSED int umount(const char *target)
{
	return ENTRY_ON_PATH(SYS_umount2, REAL(umount)(target), ARGUMENT(target), 0);
}
