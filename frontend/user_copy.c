/* Copies between us and a client's pointer, through the guarded copy. */
#include "frontend/user_copy.h"

#include <errno.h>

#include "hosts/process/guard.h"

/* A kick that was meant for something else only interrupts the copy: go on where it stopped. */
static int copy_all(uintptr_t dst, uintptr_t src, size_t size_bytes)
{
	size_t at = 0;

	while (at < size_bytes) {
		size_t done = 0;
		enum guard_reason reason = guard_copy((void *)(dst + at), (const void *)(src + at),
						      size_bytes - at, &done);

		at += done;
		if (reason != GUARD_OK && reason != GUARD_ABORT)
			return -EFAULT;
	}
	return 0;
}

int user_copy_in(void *dst, uint64_t src, size_t size_bytes)
{
	return copy_all((uintptr_t)dst, src, size_bytes);
}

int user_copy_out(uint64_t dst, const void *src, size_t size_bytes)
{
	return copy_all(dst, (uintptr_t)src, size_bytes);
}
