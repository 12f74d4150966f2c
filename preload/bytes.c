/*
 * Copies and comparisons of bytes, as all of this library calls them. A client may have functions
 * of these names, as the kernel's selftests do, and the dynamic linker would take those for ours:
 * slow ones, or ones that cannot be called where we are.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

/* Until libc's are known: calls may come before the constructor. */
static void *copy_plainly(void *to, const void *from, size_t size_bytes)
{
	void *at = to;

	__asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size_bytes) : : "memory");
	return to;
}

static void *move_plainly(void *to, const void *from, size_t size_bytes)
{
	unsigned char *target = to;
	const volatile unsigned char *source = from;

	if ((size_t)(target - source) >= size_bytes)
		return copy_plainly(to, from, size_bytes);
	while (size_bytes--)
		target[size_bytes] = source[size_bytes];
	return to;
}

static void *set_plainly(void *to, int value, size_t size_bytes)
{
	void *at = to;

	__asm__ volatile("rep stosb" : "+D"(at), "+c"(size_bytes) : "a"(value) : "memory");
	return to;
}

static int compare_plainly(const void *first, const void *second, size_t size_bytes)
{
	const unsigned char *a = first, *b = second;

	for (size_t i = 0; i < size_bytes; i++)
		if (a[i] != b[i])
			return a[i] - b[i];
	return 0;
}

static struct {
	__typeof__(&memcpy) copy;
	__typeof__(&memmove) move;
	__typeof__(&memset) set;
	__typeof__(&memcmp) compare;
} bytes = {copy_plainly, move_plainly, set_plainly, compare_plainly};

/* Before our other constructors. The program itself stands before us, and is not asked. */
__attribute__((constructor(101))) static void find_libcs(void)
{
	__typeof__(bytes) found = {dlsym(RTLD_NEXT, "memcpy"), dlsym(RTLD_NEXT, "memmove"),
				   dlsym(RTLD_NEXT, "memset"), dlsym(RTLD_NEXT, "memcmp")};

	if (found.copy && found.move && found.set && found.compare)
		bytes = found;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size_bytes)
{
	return bytes.copy(to, from, size_bytes);
}

void *memmove(void *to, const void *from, size_t size_bytes)
{
	return bytes.move(to, from, size_bytes);
}

void *memset(void *to, int value, size_t size_bytes)
{
	return bytes.set(to, value, size_bytes);
}

int memcmp(const void *first, const void *second, size_t size_bytes)
{
	return bytes.compare(first, second, size_bytes);
}

/* What clang makes of a memcmp() of which only equality counts. */
int bcmp(const void *first, const void *second, size_t size_bytes)
{
	return bytes.compare(first, second, size_bytes);
}
