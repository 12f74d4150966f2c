/* What the tests of the process host share: memory of each kind, and cmocka's headers. */
#ifndef QUIRE_TESTS_UNIT_PROCESS_SUPPORT_H
#define QUIRE_TESTS_UNIT_PROCESS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "hosts/process/guard.h"
#include "hosts/process/process.h"

#define PAGE ((size_t)4096)

static inline uint8_t *map_anonymous(size_t size_bytes, int prot)
{
	void *mem = mmap(NULL, size_bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(mem != MAP_FAILED);
	process_mappings_changed();
	return mem;
}

/* A file of @file_bytes, mapped over @map_bytes. */
static inline uint8_t *map_file(size_t file_bytes, size_t map_bytes, int prot, int flags)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	void *mem;

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)file_bytes), 0);
	mem = mmap(NULL, map_bytes, prot, flags, fd, 0);
	assert_true(mem != MAP_FAILED);
	close(fd);
	process_mappings_changed();
	return mem;
}

static inline void unmap(void *mem, size_t size_bytes)
{
	assert_int_equal(munmap(mem, size_bytes), 0);
	process_mappings_changed();
}

static inline uint64_t address_of(const void *mem)
{
	return (uint64_t)(uintptr_t)mem;
}

static inline int install_platform(void **state)
{
	quire_platform_install(&process_platform);
	return 0;
}

/* To be called by each test that faults: cmocka puts its own handlers in place before a test. */
static inline void handle_signals(void)
{
	assert_int_equal(process_signals_install(), 0);
}

#endif
