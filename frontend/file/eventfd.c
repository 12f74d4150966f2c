/*
 * Eventfds of the client: what is one, and which descriptors stand for the same.
 *
 * All eventfds share one inode, so it is no key. kcmp() compares the kernel's file objects and
 * takes no descriptor, but a set is searched from its beginning, and the call is forbidden in
 * places (Docker, without CAP_SYS_PTRACE). The kernel's text about descriptors has a number for
 * each. It is read by a thread with descriptors of its own: an open() in the client's table would
 * take the number that another thread of the client expects.
 */
#include "frontend/file/eventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "frontend/file/hidden_fd.h"
#include "frontend/file/lines.h"
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
	/* In a root without /proc, the one that was kept. */
	if (length < 0 && hidden_fd_kept_proc() >= 0)
		length = readlinkat(hidden_fd_kept_proc(), path + sizeof("/proc/") - 1, target,
				    sizeof(target));
	if (length < 0)
		return -EBADF;
	if (length != sizeof(expected) - 1 || memcmp(target, expected, (size_t)length))
		return -EINVAL;
	return 0;
}

int eventfd_signal(int fd)
{
	struct pollfd ready = {.fd = fd, .events = POLLOUT};
	uint64_t one = 1;
	long written;

	/* The description is the client's: only the client may make it one that never waits. */
	if (!sys_call(SYS_poll, sys_address(&ready), 1, 0))
		return 0;
	written = sys_call(SYS_write, (uint64_t)fd, sys_address(&one), sizeof(one));
	return written < 0 && written != -EAGAIN ? (int)written : 0;
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

/* Lines of the kernel's text about a descriptor. */
struct reading {
	char path[PATH_BYTES];
	/* false: no further line. */
	bool (*line)(struct reading *reading, const char *text);
	void (*live)(uint64_t key, void *context);
	void *context;
	uint64_t wanted, found; /* 0: none */
	bool is_read;
};

static bool read_line(void *reading, const char *text)
{
	return ((struct reading *)reading)->line(reading, text);
}

static void read_lines(void *argument)
{
	struct reading *reading = argument;

	reading->is_read = !lines_read(reading->path, read_line, reading);
}

static void read_about(struct reading *reading, int fd)
{
	snprintf(reading->path, sizeof(reading->path), "/proc/self/task/%ld/fdinfo/%d",
		 sys_call(SYS_gettid, 0), fd);
	helper_apart(read_lines, reading);
}

static bool id_line(struct reading *reading, const char *text)
{
	return sscanf(text, "eventfd-id: %lu", &reading->found) != 1;
}

uint64_t eventfd_id(int fd)
{
	struct reading reading = {.line = id_line};

	read_about(&reading, fd);
	return reading.found;
}

bool eventfd_same(int a, int b)
{
	uint64_t id;

	if (can_compare())
		return compare(KCMP_FILE, a, (uint64_t)b) == 0;
	id = eventfd_id(a);
	return id && id == eventfd_id(b);
}

static long compare_watched(int epoll_fd, const struct eventfd_watch *watch, int fd)
{
	const struct kcmp_epoll_slot slot = {.efd = (uint32_t)epoll_fd,
					     .tfd = (uint32_t)watch->number};

	return compare(KCMP_EPOLL_TFD, fd, sys_address(&slot));
}

bool eventfd_matches(int epoll_fd, const struct eventfd_watch *watch, int fd)
{
	if (can_compare())
		return compare_watched(epoll_fd, watch, fd) == 0;
	return watch->id && watch->id == eventfd_id(fd);
}

static bool key_line(struct reading *reading, const char *text)
{
	uint64_t key;

	if (sscanf(text, "tfd: %*d events: %*x data: %lx", &key) != 1)
		return true;
	if (reading->live)
		reading->live(key, reading->context);
	if (key == reading->wanted)
		reading->found = key;
	return !reading->found;
}

bool eventfd_is_gone(int epoll_fd, const struct eventfd_watch *watch)
{
	struct reading reading = {.line = key_line, .wanted = watch->key};

	if (can_compare())
		return compare_watched(epoll_fd, watch, epoll_fd) == -ENOENT;
	read_about(&reading, epoll_fd);
	return reading.is_read && !reading.found;
}

int eventfd_live(int epoll_fd, void (*live)(uint64_t key, void *context), void *context)
{
	struct reading reading = {.line = key_line, .live = live, .context = context};

	read_about(&reading, epoll_fd);
	return reading.is_read ? 0 : -EIO;
}
