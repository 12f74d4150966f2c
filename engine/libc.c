/*
 * What the engine's own libc, linked statically, is told about its surroundings.
 *
 * The image stands at a fixed address far from the first 2 GiB, so it is compiled as for a
 * position-independent program, starts by such a program's Scrt1.o, and is linked at its place: no
 * relocation is left for the start of the program to do.
 */
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/libc.h"
#include "engine/thread.h"
#include "hosts/process/fork.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

/*
 * What libc calls if it is there. Absent, each would be a weak reference to address 0, further away
 * than a call reaches; libc's own takes the place of ours where the program has it. The first
 * relocates programs without a place of their own; the next two are older than init arrays.
 */
#define ABSENT(name)                           \
	__attribute__((weak)) void name(void); \
	void name(void)                        \
	{                                      \
	}
ABSENT(_dl_relocate_static_pie)
ABSENT(_init)
ABSENT(_fini)
ABSENT(__pthread_initialize_minimal)
ABSENT(__nss_database_fork_prepare_parent)
ABSENT(__nss_database_fork_subprocess)
ABSENT(__mq_notify_fork_subprocess)
ABSENT(__timer_fork_subprocess)

/* The program break is the client's. malloc() takes mappings where this fails. */
void *refuse_break(intptr_t increment) __asm__("__sbrk");
void *refuse_break(intptr_t increment)
{
	(void)increment;
	errno = ENOMEM;
	return (void *)-1;
}
void *sbrk(intptr_t increment)
{
	return refuse_break(increment);
}

/* Memory that libc takes for itself: arenas of malloc() and the stacks of threads. */
void *map_apart(void *address, size_t size_bytes, int protection, int flags, int fd,
		off_t offset) __asm__("__mmap");
void *map_apart(void *address, size_t size_bytes, int protection, int flags, int fd, off_t offset)
{
	long mapped = address || offset ? sys_call(SYS_mmap, sys_address(address), size_bytes,
						   (uint64_t)protection, (uint64_t)flags,
						   (uint64_t)fd, (uint64_t)offset)
					: process_map(size_bytes, protection, flags, fd);

	if (!sys_failed(mapped))
		return (void *)mapped;
	errno = (int)-mapped;
	return MAP_FAILED;
}

static _Thread_local const struct libc_fork *fork_request;

/*
 * Where libc keeps the number of a thread, from its thread pointer, as it tells debuggers: bits,
 * elements, offset. The number itself is no way to find its place: the upper half of a pointer,
 * here 0x7e90, is some process's number one day.
 */
extern const uint32_t libc_tid_place[3] __asm__("_thread_db_pthread_tid");

void libc_set_tid(int tid)
{
	*(int *)(thread_fs_read() + libc_tid_place[2]) = tid;
}

/* The system call inside of fork(3): the client's own, with its flags and places for numbers. */
pid_t fork_as_asked(void) __asm__("_Fork");
pid_t fork_as_asked(void)
{
	const struct libc_fork *request = fork_request;
	static const struct libc_fork plain = {SYS_clone, {17}, 0};
	long result;

	if (!request)
		request = &plain;
	result = sys_call_six(request->number, request->args);
	if (result == 0) {
		libc_set_tid((int)sys_call(SYS_gettid, 0));
		process_fork_note_flags(request->flags);
	}
	if (!sys_failed(result))
		return (pid_t)result;
	errno = (int)-result;
	return -1;
}

long libc_fork(const struct libc_fork *request)
{
	pid_t child;

	fork_request = request;
	child = fork();
	fork_request = NULL;
	return child < 0 ? -errno : child;
}
