/* Copies between us and a client's pointer, through the guarded copy. */
#include "frontend/file/user_copy.h"

#include <errno.h>
#include <string.h>

#include "hosts/process/guard.h"
#include "hosts/process/probe.h"

#define PAGE_BYTES UINT64_C(4096)

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

/* The copies stay guarded: where our handlers stand, a mapping that goes meanwhile is no crash. */
int user_peek(void *dst, uint64_t src, size_t size_bytes)
{
	return probe_readable(src, size_bytes) ? user_copy_in(dst, src, size_bytes) : -EFAULT;
}

int user_poke(uint64_t dst, const void *src, size_t size_bytes)
{
	return probe_writable(dst, size_bytes) ? user_copy_out(dst, src, size_bytes) : -EFAULT;
}

long user_peek_string(char *dst, size_t room_bytes, uint64_t src)
{
	size_t at = 0;

	while (at < room_bytes - 1) {
		size_t part = PAGE_BYTES - (src + at) % PAGE_BYTES, length;

		if (part > room_bytes - 1 - at)
			part = room_bytes - 1 - at;
		if (user_peek(dst + at, src + at, part))
			return -EFAULT;
		length = strnlen(dst + at, part);
		at += length;
		if (length < part)
			break;
	}
	dst[at] = '\0';
	return (long)at;
}
