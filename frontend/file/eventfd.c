/*
 * Eventfds of the client: what is one, and which descriptors stand for the same.
 *
 * All eventfds share one inode, so it is no key. kcmp() compares the kernel's file objects and
 * takes no descriptor. Where it is forbidden (Docker, without CAP_SYS_PTRACE) the kernel's text
 * about descriptors is read, by a thread with descriptors of its own: an open() in the client's
 * table would take the number that another thread of the client expects.
 */
#include "frontend/file/eventfd.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hosts/process/helper.h"
#include "hosts/process/sys.h"

#define PATH_BYTES 64

int eventfd_check(int fd)
{
	static const char expected[] = "anon_inode:[eventfd]";
	char path[PATH_BYTES], target[sizeof(expected)];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	length = readlink(path, target, sizeof(target));
	if (length < 0)
		return -EBADF;
	if (length != sizeof(expected) - 1 || memcmp(target, expected, (size_t)length))
		return -EINVAL;
	return 0;
}

/* Of this thread: the first one may have ended, and a thread may have left the others' table. */
static long compare(uint64_t type, int fd, uint64_t other)
{
	uint64_t self = (uint64_t)sys_call(SYS_gettid, 0);

	return sys_call(SYS_kcmp, self, self, type, (uint64_t)fd, other);
}

static bool can_compare(void)
{
	/* 0: not known; 1: yes; 2: no. */
	static uint32_t answer;
	uint32_t seen = __atomic_load_n(&answer, __ATOMIC_RELAXED);
	long error;

	if (!seen) {
		error = compare(KCMP_FILE, 0, 0);
		seen = error == 0 || error == -EBADF ? 1 : 2;
		__atomic_store_n(&answer, seen, __ATOMIC_RELAXED);
	}
	return seen == 1;
}

/* What is looked for in a text about a descriptor. */
struct search {
	char path[PATH_BYTES];
	const char *format; /* of a line, with one number */
	uint64_t wanted;    /* 0: the first */
	uint64_t found;	    /* 0: none */
	bool is_read;
};

static void search_text(void *argument)
{
	struct search *search = argument;
	char line[128];
	uint64_t number;
	FILE *file = fopen(search->path, "re");

	if (!file)
		return;
	search->is_read = true;
	while (!search->found && fgets(line, sizeof(line), file))
		if (sscanf(line, search->format, &number) == 1 &&
		    (!search->wanted || search->wanted == number))
			search->found = number;
	fclose(file);
}

static struct search search(int fd, const char *format, uint64_t wanted)
{
	struct search search = {.format = format, .wanted = wanted};

	snprintf(search.path, sizeof(search.path), "/proc/self/task/%ld/fdinfo/%d",
		 sys_call(SYS_gettid, 0), fd);
	helper_apart(search_text, &search);
	return search;
}

uint64_t eventfd_id(int fd)
{
	return can_compare() ? 0 : search(fd, "eventfd-id: %lu", 0).found;
}

bool eventfd_same(int a, int b)
{
	uint64_t id;

	if (can_compare())
		return compare(KCMP_FILE, a, (uint64_t)b) == 0;
	id = eventfd_id(a);
	return id && id == eventfd_id(b);
}

static long compare_watched(const struct eventfd_watch *watch, int fd)
{
	const struct kcmp_epoll_slot slot = {.efd = (uint32_t)watch->epoll_fd,
					     .tfd = (uint32_t)watch->number};

	return compare(KCMP_EPOLL_TFD, fd, sys_address(&slot));
}

bool eventfd_is_gone(const struct eventfd_watch *watch)
{
	struct search text;

	if (can_compare())
		return compare_watched(watch, watch->epoll_fd) == -ENOENT;
	/* No number of ours is 0: the search takes it for any. */
	text = search(watch->epoll_fd, "tfd: %lu", (uint64_t)watch->number);
	return text.is_read && !text.found;
}

enum eventfd_match eventfd_match(const struct eventfd_watch *watch, int fd, uint64_t id)
{
	long order;

	if (!can_compare()) {
		if (!id || watch->id != id)
			return EVENTFD_OTHER;
		/* The number may be another's by now. */
		return eventfd_is_gone(watch) ? EVENTFD_GONE : EVENTFD_SAME;
	}
	order = compare_watched(watch, fd);
	if (order == -ENOENT)
		return EVENTFD_GONE;
	return order ? EVENTFD_OTHER : EVENTFD_SAME;
}
