/*
 * Calls that change memory or descriptors, by their number: brought to the functions that keep
 * account of both. Nothing here decides what a call means. An engine compiles this file with libc's
 * names meaning the client's calls (engine/client_names.h): munmap() here is the client's.
 */
#include "preload/numbered.h"

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "frontend/file/file.h"
#include "frontend/object/mm_events.h"
#include "hosts/process/sys.h"
#include "preload/memory.h"

long numbered_result(long result)
{
	return result == -1 ? -errno : result;
}

static long address_result(const void *result)
{
	return result == MAP_FAILED ? -errno : (long)result;
}

/*
 * A function each, and never inlined: what all of them save together is more than the least signal
 * stack has left.
 */
#define SMALL_FRAME __attribute__((noinline))

/* Shrinking takes memory away, as munmap does. */
SMALL_FRAME static long break_perform(uint64_t end)
{
	uint64_t now = (uint64_t)sys_call(SYS_brk, 0), start = (end + 4095) & ~UINT64_C(4095);
	bool shrinks = end && start < now && file_any();
	long result;

	result = sys_call(SYS_brk, end);
	if (shrinks)
		mm_changed(start, now);
	return result;
}

SMALL_FRAME static long memory_perform(const struct boundary_call *call)
{
	const unsigned long *args = call->args;
	void *address = (void *)args[0];

	switch (call->nr) {
	case SYS_mmap:
		return address_result(mmap(address, args[1], (int)args[2], (int)args[3],
					   (int)args[4], (off_t)args[5]));
	case SYS_munmap:
		return numbered_result(munmap(address, args[1]));
	case SYS_mremap:
		return address_result(
		    mremap(address, args[1], args[2], (int)args[3], (void *)args[4]));
	case SYS_remap_file_pages:
		return numbered_result(
		    remap_file_pages(address, args[1], (int)args[2], args[3], (int)args[4]));
	case SYS_mprotect:
		return numbered_result(mprotect(address, args[1], (int)args[2]));
	case SYS_pkey_mprotect:
		return numbered_result(pkey_mprotect(address, args[1], (int)args[2], (int)args[3]));
	case SYS_madvise:
		return numbered_result(madvise(address, args[1], (int)args[2]));
	case SYS_shmat:
		return address_result(shmat((int)args[0], (void *)args[1], (int)args[2]));
	case SYS_shmdt:
		return numbered_result(shmdt(address));
	default:
		return break_perform(args[0]);
	}
}

SMALL_FRAME static long descriptor_perform(const struct boundary_call *call)
{
	const unsigned long *args = call->args;
	int fd = (int)args[0];

	switch (call->nr) {
	case SYS_close:
		return numbered_result(close(fd));
	case SYS_dup:
		return numbered_result(dup(fd));
	case SYS_dup2:
		return numbered_result(dup2(fd, (int)args[1]));
	case SYS_dup3:
		return numbered_result(dup3(fd, (int)args[1], (int)args[2]));
	default:
		return numbered_result(
		    close_range((unsigned int)args[0], (unsigned int)args[1], (int)args[2]));
	}
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

/* Bits that no int of a function has: the kernel refuses them, and changes nothing. */
static bool has_high_bits(const struct boundary_call *call)
{
	switch (call->nr) {
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_remap_file_pages:
		return call->args[2] >> 32;
	case SYS_mremap:
		return call->args[3] >> 32;
	default:
		return false;
	}
}

bool numbered_perform(const struct boundary_call *call, long *result)
{
	int saved_errno = errno;

	switch (call->nr) {
	case SYS_mmap:
	case SYS_munmap:
	case SYS_mremap:
	case SYS_remap_file_pages:
	case SYS_mprotect:
	case SYS_pkey_mprotect:
	case SYS_madvise:
	case SYS_shmat:
	case SYS_shmdt:
	case SYS_brk:
		*result = file_any() && !has_high_bits(call) ? memory_perform(call)
							     : sys_call_six(call->nr, call->args);
		break;
	case SYS_close:
	case SYS_dup:
	case SYS_dup2:
	case SYS_dup3:
	case SYS_close_range:
		*result = descriptor_perform(call);
		break;
	case SYS_ioctl:
		if (!memory_is_userfault_change(call->args[1]))
			return false;
		*result = numbered_result(memory_userfault_ioctl((int)call->args[0], call->args[1],
								 call->args[2], forward_ioctl));
		break;
	default:
		return false;
	}
	errno = saved_errno;
	return true;
}
