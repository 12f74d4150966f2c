/* Eventfds of the client: what is one, and which descriptors stand for the same. */
#include "frontend/file/eventfd.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int eventfd_check(int fd)
{
	static const char expected[] = "anon_inode:[eventfd]";
	char path[64], target[sizeof(expected)];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, target, sizeof(target));
	if (length < 0)
		return -EBADF;
	if (length != sizeof(expected) - 1 || memcmp(target, expected, (size_t)length))
		return -EINVAL;
	return 0;
}

uint64_t eventfd_id(int fd)
{
	char path[64], line[128];
	uint64_t id = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "eventfd-id: %lu", &id) == 1)
			break;
	fclose(file);
	return id;
}

static int compare_ids(int a, int b)
{
	uint64_t id_a = eventfd_id(a), id_b = eventfd_id(b);

	if (!id_a || !id_b || id_a < id_b)
		return -1;
	return id_a > id_b;
}

/*
 * All eventfds share one inode, so it is no key. kcmp() orders the kernel's file objects and takes
 * no descriptor. The other way does for a moment, and may so take the number that another thread
 * of the client has just closed; it is for machines that forbid the first.
 */
int eventfd_compare(int a, int b)
{
	/* The order of the file objects: 0 the same, 1 before, 2 after. */
	pid_t self = getpid();
	long order = syscall(SYS_kcmp, self, self, KCMP_FILE, a, b);

	if (order < 0 && errno != EBADF)
		return compare_ids(a, b);
	if (order == 0)
		return 0;
	return order == 2 ? 1 : -1;
}
