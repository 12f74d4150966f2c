/* Memory of ours behind a file. */
#include "frontend/file/memory.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "frontend/file/file.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define HUGE_BYTES (UINT64_C(2) << 20)
#define GIGANTIC_BYTES (UINT64_C(1) << 30)

/* At the gate: also in a thread of ours, that the client's filter may be in force in. */
static void unmap(void *memory, uint64_t size_bytes)
{
	sys_call(SYS_munmap, sys_address(memory), size_bytes);
}

/* Room for the file, aligned to the largest block in it, 2 MiB or 1 GiB: addresses are frame
 * numbers, and huge pages need that. */
static void *aligned_room(uint64_t size_bytes)
{
	uint64_t align = size_bytes < GIGANTIC_BYTES ? HUGE_BYTES : GIGANTIC_BYTES;
	uint64_t room_bytes = size_bytes + align, before, after;
	uint8_t *room;
	long mapped;

	if (size_bytes < HUGE_BYTES || room_bytes < size_bytes)
		return NULL;
	mapped =
	    process_map(room_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	if (sys_failed(mapped))
		return NULL;
	room = (uint8_t *)mapped;
	before = -(uintptr_t)room % align;
	after = align - before;
	if (before)
		unmap(room, before);
	unmap(room + before + size_bytes, after);
	return room + before;
}

/*
 * The mapping is made without rights and unlocked first: a client's mlockall() would have the
 * kernel make every page, and refuse the holes that a punch makes.
 */
static int map(int fd, int flags, uint64_t size_bytes, void **memory)
{
	void *room = aligned_room(size_bytes), *made;
	long mapped, error;

	flags |= MAP_SHARED;
	mapped = room ? sys_call(SYS_mmap, sys_address(room), size_bytes, PROT_NONE,
				 (uint64_t)(flags | MAP_FIXED), (uint64_t)fd)
		      : process_map(size_bytes, PROT_NONE, flags, fd);
	if (sys_failed(mapped)) {
		if (room)
			unmap(room, size_bytes);
		return (flags & MAP_HUGETLB) && mapped == -EINVAL ? -EINVAL : -ENOMEM;
	}
	made = (void *)mapped;
	error = sys_call(SYS_munlock, (uint64_t)mapped, size_bytes);
	if (!error)
		error = sys_call(SYS_madvise, (uint64_t)mapped, size_bytes, MADV_DONTFORK);
	if (!error)
		error =
		    sys_call(SYS_mprotect, (uint64_t)mapped, size_bytes, PROT_READ | PROT_WRITE);
	if (error) {
		unmap(made, size_bytes);
		return (int)error;
	}
	*memory = made;
	return 0;
}

int file_memory_map(int fd, uint64_t size_bytes, void **memory)
{
	return map(fd, 0, size_bytes, memory);
}

int file_memory_make(uint64_t size_bytes, void **memory)
{
	int error = map(-1, MAP_ANONYMOUS | MAP_NORESERVE, size_bytes, memory);

	/* The name tells a reader of /proc/PID/maps what this memory is. */
	if (!error)
		(void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, *memory, size_bytes,
			    "quire guest_memfd");
	return error;
}

int file_memory_make_huge(uint64_t size_bytes, unsigned int log2, void **memory)
{
	int size = (int)(log2 << MAP_HUGE_SHIFT);

	return map(-1, MAP_ANONYMOUS | MAP_HUGETLB | size, size_bytes, memory);
}

int file_size_set(int fd, uint64_t size_bytes)
{
	struct rlimit before, raised;
	int error = 0;

	if (getrlimit(RLIMIT_FSIZE, &before) || before.rlim_cur >= size_bytes)
		return ftruncate(fd, (off_t)size_bytes) ? -errno : 0;
	raised = before;
	raised.rlim_cur = size_bytes;
	if (raised.rlim_max < size_bytes)
		raised.rlim_max = size_bytes; /* only a privileged process may */
	if (setrlimit(RLIMIT_FSIZE, &raised))
		return -EFBIG;
	if (ftruncate(fd, (off_t)size_bytes))
		error = -errno;
	setrlimit(RLIMIT_FSIZE, &before);
	return error;
}

/* Where files of ours were mapped, ever. Atomic. */
static uintptr_t mapped_low = UINTPTR_MAX, mapped_high;

void file_mapped(uintptr_t start, uintptr_t end)
{
	uintptr_t low = __atomic_load_n(&mapped_low, __ATOMIC_RELAXED);
	uintptr_t high = __atomic_load_n(&mapped_high, __ATOMIC_RELAXED);

	while (start < low && !__atomic_compare_exchange_n(&mapped_low, &low, start, true,
							   __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	while (end > high && !__atomic_compare_exchange_n(&mapped_high, &high, end, true,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

bool file_may_be_mapped(uintptr_t start, uintptr_t end)
{
	return start < __atomic_load_n(&mapped_high, __ATOMIC_RELAXED) &&
	       end > __atomic_load_n(&mapped_low, __ATOMIC_RELAXED);
}
