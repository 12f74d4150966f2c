/* Which files are gone: the kernel tells of the end of an inode, in whichever process it comes. */
#include "frontend/file/watch.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "frontend/file/broker.h"
#include "frontend/file/client_call.h"
#include "frontend/file/hidden_fd.h"
#include "frontend/file/lines.h"
#include "frontend/param/params.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"
#include "hosts/process/sys.h"

#define PATH_BYTES 64

/* -1: none yet. Written under the lock of the table of files, read by the waiting thread. */
static int watch_fd = -1;

/* Events that were read and not yet told. A watch of a file has no names in its events. */
static struct inotify_event events[64];
static unsigned int event_count, event_at;

void file_watch_start(void)
{
	int fd;

	if (watch_fd >= 0)
		return;
	fd = hidden_fd_hide(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
	if (fd < 0)
		return;
	broker_hold(params_directory(), fd);
	__atomic_store_n(&watch_fd, fd, __ATOMIC_RELEASE);
}

int file_watch_add(int fd)
{
	char path[PATH_BYTES];
	int watch;

	if (watch_fd < 0)
		return -EMFILE;
	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	watch = inotify_add_watch(watch_fd, path, IN_DELETE_SELF);
	return watch < 0 ? -errno : watch;
}

int file_watch_next(void)
{
	for (;;) {
		if (event_at == event_count) {
			long got = watch_fd < 0 ? -1
						: sys_call(SYS_read, (uint64_t)watch_fd,
							   sys_address(events), sizeof(events));

			if (got <= 0)
				return FILE_WATCH_NONE;
			event_at = 0;
			event_count = (unsigned int)((size_t)got / sizeof(events[0]));
		}
		if (events[event_at].mask & IN_Q_OVERFLOW) {
			event_at++;
			return FILE_WATCH_LOST;
		}
		if (events[event_at].mask & IN_DELETE_SELF)
			return events[event_at++].wd;
		event_at++;
	}
}

struct living {
	void (*alive)(int watch);
};

static bool living_line(void *context, const char *text)
{
	const struct living *living = context;
	unsigned int watch;

	if (sscanf(text, "inotify wd:%x", &watch) == 1)
		living->alive((int)watch);
	return true;
}

int file_watch_alive(void (*alive)(int watch))
{
	struct living living = {alive};
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", watch_fd);
	return lines_read(path, living_line, &living);
}

/* Until file_watch_next() has something to say, perhaps. */
static void wait_for_event(void)
{
	struct pollfd one = {.fd = __atomic_load_n(&watch_fd, __ATOMIC_ACQUIRE), .events = POLLIN};

	sys_call(SYS_poll, sys_address(&one), 1, UINT64_MAX);
}

static bool (*collect_here)(void);
static struct process_event wake_event;
static struct helper_once waiter;

static void *collector(void *unused)
{
	(void)unused;
	client_call_begin();
	for (;;) {
		uint32_t seen = process_event_count(&wake_event);

		if (collect_here())
			wait_for_event();
		else
			process_event_wait(&wake_event, seen, PROCESS_EVENT_FOREVER);
	}
	return NULL;
}

void file_watch_start_thread(bool (*collect)(void))
{
	__atomic_store_n(&collect_here, collect, __ATOMIC_RELAXED);
	/* A close calls this, too, and must not wait for a fork in which another thread starts it.
	 */
	(void)helper_try_once(&waiter, NULL, collector, NULL);
}

void file_watch_wake(bool (*collect)(void))
{
	process_event_happen(&wake_event);
	/* Where it could not be started before. */
	file_watch_start_thread(collect);
}

void file_watch_move(int fd)
{
	int moved;

	if (fd != watch_fd)
		return;
	moved = hidden_fd_move(fd);
	if (moved >= 0)
		__atomic_store_n(&watch_fd, moved, __ATOMIC_RELEASE);
}

void file_watch_forget(void)
{
	if (watch_fd >= 0)
		hidden_fd_close(watch_fd);
	watch_fd = -1;
	helper_once_forget(&waiter);
	event_at = event_count = 0;
}
