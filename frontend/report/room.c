/* Files of the run's directory, mapped: without room for a page a touch of it would be SIGBUS. */
#include "frontend/report/room.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frontend/file/memory.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define PAGE_MASK UINT64_C(4095)

int room_make(void *start, size_t size_bytes)
{
	uintptr_t first = (uintptr_t)start & ~PAGE_MASK;
	uintptr_t end = ((uintptr_t)start + size_bytes + PAGE_MASK) & ~PAGE_MASK;

	if (!madvise((void *)first, end - first, MADV_POPULATE_WRITE))
		return 0;
	/* A kernel that does not know how. */
	return errno == EINVAL ? 0 : -errno;
}

long room_open(void *start, size_t size_bytes)
{
	return sys_call(SYS_mprotect, sys_address(start), size_bytes, PROT_READ | PROT_WRITE);
}

void *room_map(const char *path, int fd, size_t size_bytes, size_t open_bytes)
{
	size_t opened_bytes = (open_bytes + PAGE_MASK) & ~PAGE_MASK;
	long mapped = -ENOSPC;

	if (!file_size_set(fd, size_bytes))
		mapped = process_map(size_bytes, PROT_NONE, MAP_SHARED, fd);
	if (!sys_failed(mapped) && !room_open((void *)mapped, opened_bytes) &&
	    !room_make((void *)mapped, open_bytes)) {
		close(fd);
		return (void *)mapped;
	}
	if (!sys_failed(mapped))
		munmap((void *)mapped, size_bytes);
	unlink(path);
	close(fd);
	return NULL;
}
