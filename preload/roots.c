/* Calls that lead to another root: what KVM's first use needs may be out of reach there. */
#include <sched.h>
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
