/* The client's memory: guarded copies. */
#include "engine/user.h"

#include <errno.h>
#include <string.h>

#include "frontend/file/user_copy.h"

#define PAGE_BYTES UINT64_C(4096)

int user_read(void *dst, uint64_t address, size_t size_bytes)
{
	return user_copy_in(dst, address, size_bytes);
}

int user_write(uint64_t address, const void *src, size_t size_bytes)
{
	return user_copy_out(address, src, size_bytes);
}

long user_read_string(char *dst, size_t room_bytes, uint64_t address)
{
	size_t length = 0;

	/* A page at a time: the next one may not be there. */
	while (length < room_bytes) {
		size_t part = PAGE_BYTES - (address + length) % PAGE_BYTES;
		const char *end;

		if (part > room_bytes - length)
			part = room_bytes - length;
		if (user_copy_in(dst + length, address + length, part))
			return -EFAULT;
		end = memchr(dst + length, '\0', part);
		if (end)
			return end - dst;
		length += part;
	}
	return -ENAMETOOLONG;
}
