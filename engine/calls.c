/*
 * Trapped calls that name paths, descriptors or memory: brought to boundary/, or to what preload/
 * makes of them. This file is compiled with libc's names meaning the client's calls
 * (engine/client_names.h): munmap() here is the client's. Nothing here decides what a call means.
 */
#include "engine/calls.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "boundary/call.h"
#include "engine/client_cpuid.h"
#include "engine/image.h"
#include "engine/seccomp.h"
#include "engine/signals.h"
#include "engine/user.h"
#include "frontend/client_call.h"
#include "frontend/file.h"
#include "frontend/mm_events.h"
#include "hosts/process/sys.h"
#include "preload/memory.h"

/* A libc function's result as the kernel gives it. */
static long kernel_result(long result)
{
	return result == -1 ? -errno : result;
}

static long kernel_address(const void *result)
{
	return result == MAP_FAILED ? -errno : (long)result;
}

/* ---- Paths ---- */

/* The index of the argument that is the path; the boundary judges the result of such a call. */
static int path_index(long number)
{
	switch (number) {
	case SYS_open:
	case SYS_creat:
	case SYS_stat:
	case SYS_lstat:
	case SYS_access:
	case SYS_chdir:
	case SYS_readlink:
	case SYS_truncate:
	case SYS_chmod:
	case SYS_chown:
	case SYS_utime:
	case SYS_utimes:
	case SYS_setxattr:
	case SYS_getxattr:
	case SYS_removexattr:
		return 0;
	case SYS_openat:
	case SYS_openat2:
	case SYS_newfstatat:
	case SYS_statx:
	case SYS_faccessat:
	case SYS_faccessat2:
	case SYS_readlinkat:
	case SYS_fchmodat:
		return 1;
	default:
		return -1;
	}
}

/* readlink of /proc/self/exe: the program, where the kernel would say the engine. */
static long read_own_link(uint64_t to, uint64_t room_bytes)
{
	size_t length = strlen(image.program);
	long error;

	if ((int)room_bytes <= 0)
		return -EINVAL;
	if (length > room_bytes)
		length = room_bytes;
	error = user_write(to, image.program, length);
	return error ? error : (long)length;
}

/* A call by /proc/self/exe. */
static bool serve_own(const struct trap *trap, int index, long *result)
{
	char path[64];
	uint64_t args[6];

	if (user_read_string(path, sizeof(path), trap->args[index]) < 0 || !image_is_own(path))
		return false;
	memcpy(args, trap->args, sizeof(args));
	args[index] = sys_address(image.program);
	switch (trap->number) {
	case SYS_readlink:
	case SYS_readlinkat:
		*result = read_own_link(args[index + 1], args[index + 2]);
		return true;
	case SYS_lstat:
		return false;
	default:
		*result = sys_call_six(trap->number, args);
		return true;
	}
}

/* ---- Descriptors ---- */

static long descriptor_perform(const struct trap *trap)
{
	const uint64_t *args = trap->args;
	int fd = (int)args[0];

	switch (trap->number) {
	case SYS_close:
		return kernel_result(close(fd));
	case SYS_dup:
		return kernel_result(dup(fd));
	case SYS_dup2:
		return kernel_result(dup2(fd, (int)args[1]));
	case SYS_dup3:
		return kernel_result(dup3(fd, (int)args[1], (int)args[2]));
	case SYS_close_range:
	default:
		return kernel_result(
		    close_range((unsigned int)args[0], (unsigned int)args[1], (int)args[2]));
	}
}

/*
 * What the boundary knows of the call. One that names a path is made here, for the boundary to
 * judge its result: an open may wait (a FIFO), so signals are let in, and end it.
 */
static enum trap_outcome serve_object(const struct trap *trap, long *result)
{
	struct boundary_call call = {.nr = trap->number};
	int index = path_index(trap->number);

	if (index >= 0 && serve_own(trap, index, result))
		return TRAP_ANSWERED;
	memcpy(call.args, trap->args, sizeof(call.args));
	if (boundary_try(&call, result) == BOUNDARY_ANSWERED)
		return TRAP_ANSWERED;
	if (index < 0)
		return TRAP_FORWARD;
	client_call_begin();
	signals_let_in(trap->context);
	*result = boundary_kernel(&call);
	signals_hold_off();
	client_call_end();
	*result = boundary_settle(&call, *result);
	return TRAP_ANSWERED;
}

/* A userfaultfd's changes of memory go the way of memory calls. */
static long forward_ioctl(int fd, unsigned long command, unsigned long argument)
{
	long result = sys_call(SYS_ioctl, (uint64_t)fd, command, argument);

	if (!sys_failed(result))
		return result;
	errno = (int)-result;
	return -1;
}

static enum trap_outcome serve_ioctl(const struct trap *trap, long *result)
{
	const uint64_t *args = trap->args;

	if (memory_is_userfault_change(args[1])) {
		*result = kernel_result(
		    memory_userfault_ioctl((int)args[0], args[1], args[2], forward_ioctl));
		return TRAP_ANSWERED;
	}
	return serve_object(trap, result);
}

/* ---- Memory ---- */

/* Shrinking takes memory away, as munmap does. */
static long break_perform(uint64_t end)
{
	uint64_t now = (uint64_t)sys_call(SYS_brk, 0), start = (end + 4095) & ~UINT64_C(4095);
	bool shrinks = end && start < now && file_any();
	long result;

	result = sys_call(SYS_brk, end);
	if (shrinks)
		mm_changed(start, now);
	return result;
}

static long memory_perform(const struct trap *trap)
{
	const uint64_t *args = trap->args;
	void *address = (void *)args[0];

	switch (trap->number) {
	case SYS_mmap:
		return kernel_address(mmap(address, args[1], (int)args[2], (int)args[3],
					   (int)args[4], (off_t)args[5]));
	case SYS_munmap:
		return kernel_result(munmap(address, args[1]));
	case SYS_mremap:
		return kernel_address(
		    mremap(address, args[1], args[2], (int)args[3], (void *)args[4]));
	case SYS_mprotect:
		return kernel_result(mprotect(address, args[1], (int)args[2]));
	case SYS_pkey_mprotect:
		return kernel_result(pkey_mprotect(address, args[1], (int)args[2], (int)args[3]));
	case SYS_madvise:
		return kernel_result(madvise(address, args[1], (int)args[2]));
	case SYS_shmat:
		return kernel_address(shmat((int)args[0], (void *)args[1], (int)args[2]));
	case SYS_shmdt:
		return kernel_result(shmdt(address));
	default:
		return break_perform(args[0]);
	}
}

/* Text of a file that is the process's own from here on. */
static void note_text(const uint64_t args[6], long mapped)
{
	const struct cpuid_mapping mapping = {
	    .fd = (int)args[4],
	    .protection = (int)args[2],
	    .offset = args[5],
	    .start = (uint64_t)mapped,
	    .bytes = args[1],
	};

	if (!sys_failed(mapped) && (args[2] & PROT_EXEC) &&
	    (args[3] & (MAP_TYPE | MAP_ANONYMOUS)) == MAP_PRIVATE)
		cpuid_mapped(&mapping);
}

enum trap_outcome calls_serve(struct trap *trap, long *result)
{
	switch (trap->number) {
	case SYS_mmap:
	case SYS_munmap:
	case SYS_mremap:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_madvise:
	case SYS_shmat:
	case SYS_shmdt:
	case SYS_brk:
		/* Always here: the client's own stack may be what goes. */
		*result =
		    file_any() ? memory_perform(trap) : sys_call_six(trap->number, trap->args);
		if (trap->number == SYS_mmap)
			note_text(trap->args, *result);
		return TRAP_ANSWERED;
	case SYS_ioctl:
		return serve_ioctl(trap, result);
	case SYS_close:
	case SYS_dup:
	case SYS_dup2:
	case SYS_dup3:
	case SYS_close_range:
		*result = descriptor_perform(trap);
		return TRAP_ANSWERED;
	case SYS_seccomp:
	case SYS_prctl:
		return seccomp_serve(trap, result);
	default:
		return serve_object(trap, result);
	}
}
