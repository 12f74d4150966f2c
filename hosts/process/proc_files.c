/* Files of /proc that tell about this process's memory, kept open. */
#include "hosts/process/proc_files.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>

#include "hosts/process/process.h"
#include "hosts/process/sys.h"

static const char *const paths[PROC_FILES] = {
    [PROC_MAPS] = "/proc/thread-self/maps",
    [PROC_SMAPS] = "/proc/thread-self/smaps",
    [PROC_PAGEMAP] = "/proc/thread-self/pagemap",
};

/* Written by the threads that make objects, read by all: the words go by themselves. */
static struct {
	uint64_t owner; /* process_identity() of the process whose memory it tells of */
	uint64_t inode;
	int fd_plus_one; /* 0: none */
} kept[PROC_FILES];

static uint64_t inode_of(long fd)
{
	struct stat status = {.st_ino = 0};

	return sys_call(SYS_fstat, (uint64_t)fd, sys_address(&status)) ? 0 : status.st_ino;
}

const char *proc_file_path(enum proc_file which)
{
	return paths[which];
}

void proc_file_keep(enum proc_file which, int fd)
{
	if (fd >= 0) {
		__atomic_store_n(&kept[which].owner, process_identity(), __ATOMIC_RELAXED);
		__atomic_store_n(&kept[which].inode, inode_of(fd), __ATOMIC_RELAXED);
	}
	__atomic_store_n(&kept[which].fd_plus_one, fd + 1, __ATOMIC_RELEASE);
}

int proc_file_kept(enum proc_file which)
{
	return __atomic_load_n(&kept[which].fd_plus_one, __ATOMIC_ACQUIRE) - 1;
}

long proc_file_open(enum proc_file which)
{
	int fd = proc_file_kept(which);

	if (fd >= 0 && __atomic_load_n(&kept[which].owner, __ATOMIC_RELAXED) == process_identity())
		return fd;
	return sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(paths[which]),
			O_RDONLY | O_CLOEXEC);
}

void proc_file_close(enum proc_file which, long fd)
{
	if (fd != proc_file_kept(which))
		sys_call(SYS_close, (uint64_t)fd);
}

bool proc_file_is_lost(enum proc_file which, long fd)
{
	if (fd < 0 || fd != proc_file_kept(which) ||
	    inode_of(fd) == __atomic_load_n(&kept[which].inode, __ATOMIC_RELAXED))
		return false;
	proc_file_keep(which, -1);
	return true;
}
