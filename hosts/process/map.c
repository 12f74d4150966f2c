/* Where the library's own mappings go. */
#include "hosts/process/map.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>

#include "hosts/process/sys.h"

/*
 * 64 GiB below what address-space randomisation leaves for mmap(), below the engine's image, and
 * where the sanitizers allow a program's memory. The addresses are hints: a kernel that has
 * something there already chooses by itself.
 */
#define REGION_START UINT64_C(0x7e8000000000)
#define REGION_END UINT64_C(0x7e9000000000)
#define HUGE_BYTES (UINT64_C(2) << 20)
#define PAGE_BYTES UINT64_C(4096)

/* Holes that were left behind are met again once the region has been gone through. */
#define TRIES 64

static uint64_t next = REGION_START;

/* Reserves the next piece of the region. 0: @size_bytes do not fit into it. */
static uint64_t take_hint(uint64_t size_bytes)
{
	uint64_t align = size_bytes < HUGE_BYTES ? PAGE_BYTES : HUGE_BYTES;
	uint64_t seen = __atomic_load_n(&next, __ATOMIC_RELAXED), start;

	if (size_bytes > REGION_END - REGION_START)
		return 0;
	do {
		start = (seen + align - 1) & -align;
		if (start > REGION_END - size_bytes)
			start = REGION_START;
	} while (!__atomic_compare_exchange_n(&next, &seen,
					      start + ((size_bytes + PAGE_BYTES - 1) & -PAGE_BYTES),
					      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return start;
}

/*
 * KVM's memory is the kernel's, and so must ours not be the client's data (RLIMIT_DATA): what may
 * grow downwards is stack to the kernel. It never grows: below it is memory of ours, or none.
 */
static int spare_data(int protection, int flags)
{
	const int own = MAP_PRIVATE | MAP_ANONYMOUS;

	return (protection & PROT_WRITE) && (flags & own) == own ? flags | MAP_GROWSDOWN : flags;
}

long process_map(uint64_t size_bytes, int protection, int flags, int fd)
{
	uint64_t hint = take_hint(size_bytes);
	long mapped = 0;

	flags = spare_data(protection, flags);
	for (int i = 0; i < TRIES && hint; i++) {
		mapped = sys_call(SYS_mmap, hint, size_bytes, (uint64_t)protection, (uint64_t)flags,
				  (uint64_t)fd);
		if (sys_failed(mapped) || (uint64_t)mapped == hint)
			return mapped;
		sys_call(SYS_munmap, (uint64_t)mapped, size_bytes);
		hint = take_hint(size_bytes);
	}
	return sys_call(SYS_mmap, 0, size_bytes, (uint64_t)protection, (uint64_t)flags,
			(uint64_t)fd);
}

void *process_map_shared(const char *directory, const char *name, uint64_t size_bytes)
{
	char path[PATH_MAX];
	long fd, mapped;

	if (snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int)sizeof(path))
		return NULL;
	fd = sys_call(SYS_openat, (uint64_t)AT_FDCWD, sys_address(path), O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	mapped = process_map(size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, (int)fd);
	sys_call(SYS_close, (uint64_t)fd);
	return sys_failed(mapped) ? NULL : (void *)mapped;
}
