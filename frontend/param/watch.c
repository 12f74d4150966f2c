/* A parameter that one process of a run writes takes effect in all of them before write() returns.
 */
#include "frontend/param/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hosts/process/helper.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"

#define PAGE_NAME "param-writes"
#define PAGE_BYTES 4096u
#define PATH_BYTES 4200
#define PLACES 256u
/* How long a write waits for one that does not answer, looking whether it lives. */
#define WAIT_STEP_NS 20000000
#define WAIT_STEPS 100u

struct place {
	_Atomic int32_t pid; /* 0: free */
	_Atomic uint32_t seen;
};

struct watch_page {
	_Atomic uint32_t writes;  /* grows with each; watchers sleep on it */
	_Atomic uint32_t answers; /* writers sleep on it */
	struct place places[PLACES];
};
_Static_assert(sizeof(struct watch_page) <= PAGE_BYTES, "one page");

static struct watch_page *_Atomic page;
static void (*_Atomic apply_here)(void);
static _Atomic int32_t started_by; /* the process whose thread listens */

/* Shared between processes: the page is a file's. At the gate, as all that the listener calls. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *timeout)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAIT, seen, sys_address(timeout));
}

static void futex_wake(_Atomic uint32_t *word)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAKE, INT_MAX);
}

int param_watch_create(const char *directory)
{
	char path[PATH_BYTES];
	int fd, error;

	snprintf(path, sizeof(path), "%s/" PAGE_NAME, directory);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* With its room: a full file system must not raise SIGBUS in a client. */
	error = fallocate(fd, 0, 0, PAGE_BYTES) ? -errno : 0;
	close(fd);
	return error;
}

/* Mapped once, by the first user; kept for ever, over a fork, too. */
static struct watch_page *page_of(const char *directory)
{
	struct watch_page *mapped = atomic_load(&page), *none = NULL;
	char path[PATH_BYTES];
	struct stat status;
	long memory = -ENOSPC;
	int fd;

	if (mapped)
		return mapped;
	snprintf(path, sizeof(path), "%s/" PAGE_NAME, directory);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	if (!fstat(fd, &status) && status.st_size >= (off_t)PAGE_BYTES)
		memory = process_map(PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	close(fd);
	if (sys_failed(memory))
		return NULL;
	if (atomic_compare_exchange_strong(&page, &none, (struct watch_page *)memory))
		return (struct watch_page *)memory;
	munmap((void *)memory, PAGE_BYTES);
	return none;
}

static int is_alive(int32_t pid)
{
	long error = sys_call(SYS_kill, (uint64_t)pid, 0);

	return !error || error == -EPERM;
}

/* A place that is free, or was a process's that has ended. NULL: there are too many. */
static struct place *place_take(struct watch_page *shared)
{
	int32_t self = (int32_t)sys_call(SYS_getpid, 0);

	for (uint32_t i = 0; i < PLACES; i++) {
		struct place *place = &shared->places[i];
		int32_t owner = atomic_load(&place->pid);

		if (owner && owner != self && is_alive(owner))
			continue;
		atomic_store(&place->seen, atomic_load(&shared->writes));
		if (atomic_compare_exchange_strong(&place->pid, &owner, self))
			return place;
	}
	return NULL;
}

static void apply(void)
{
	void (*function)(void) = atomic_load(&apply_here);

	if (function)
		function();
}

static void *listener(void *argument)
{
	struct watch_page *shared = argument;
	struct place *place;

	place = place_take(shared);
	/* What was written before there was a place. */
	apply();
	while (place) {
		uint32_t seen = atomic_load(&place->seen), now;

		futex_wait(&shared->writes, seen, NULL);
		now = atomic_load(&shared->writes);
		if (now == seen)
			continue;
		apply();
		atomic_store(&place->seen, now);
		atomic_fetch_add(&shared->answers, 1);
		futex_wake(&shared->answers);
	}
	return NULL;
}

void param_watch_start(const char *directory, void (*function)(void))
{
	int32_t self = getpid(), before = atomic_load(&started_by);
	struct watch_page *shared;

	atomic_store(&apply_here, function);
	if (before == self || !atomic_compare_exchange_strong(&started_by, &before, self))
		return;
	shared = directory ? page_of(directory) : NULL;
	if (shared)
		(void)helper_start(NULL, listener, shared);
}

static void wait_for(struct watch_page *shared, struct place *place, uint32_t wanted)
{
	struct timespec step = {.tv_nsec = WAIT_STEP_NS};

	for (uint32_t i = 0; i < WAIT_STEPS; i++) {
		uint32_t answers = atomic_load(&shared->answers);
		int32_t owner = atomic_load(&place->pid);

		if (!owner || owner == getpid() || !is_alive(owner))
			return;
		if ((int32_t)(atomic_load(&place->seen) - wanted) >= 0)
			return;
		futex_wait(&shared->answers, answers, &step);
	}
}

void param_watch_tell(const char *directory)
{
	struct watch_page *shared = page_of(directory);
	uint32_t wanted;

	/* The VMs of a parent are not the child's to change. */
	if (atomic_load(&started_by) == getpid())
		apply();
	if (!shared)
		return;
	wanted = atomic_fetch_add(&shared->writes, 1) + 1;
	futex_wake(&shared->writes);
	for (uint32_t i = 0; i < PLACES; i++)
		if (atomic_load(&shared->places[i].pid))
			wait_for(shared, &shared->places[i], wanted);
}

void param_watch_remove(const char *directory)
{
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/" PAGE_NAME, directory);
	unlink(path);
}
