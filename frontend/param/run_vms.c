/* Which processes of a run have VMs: a file in the run's directory for each, named by its pid. */
#include "frontend/param/run_vms.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hosts/process/fork.h"
#include "hosts/process/lock.h"

#define MARK_PREFIX "vms-"

static struct process_lock marks_lock;
static int count;	/* VMs of this process, and in a forked child also its parent's then */
static pid_t marked_by; /* the process that made the file: not the child of a fork */

static void fork_child(void)
{
	(void)process_lock_start_anew(&marks_lock);
}
FORK_CHILD(FORK_MARKS, marks_lock, fork_child);

static void mark_path(const char *directory, pid_t pid, char path[RUN_VMS_PATH_MAX])
{
	snprintf(path, RUN_VMS_PATH_MAX, "%s/" MARK_PREFIX "%d", directory, (int)pid);
}

void run_vms_count(const char *directory, int change)
{
	char path[RUN_VMS_PATH_MAX];
	pid_t self = getpid();
	int fd;

	process_lock_acquire(&marks_lock);
	count += change;
	mark_path(directory, self, path);
	if (change > 0 && marked_by != self) {
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd >= 0) {
			close(fd);
			marked_by = self;
		}
	} else if (!count && marked_by == self) {
		unlink(path);
		marked_by = 0;
	}
	process_lock_release(&marks_lock);
}

/* The process may have ended without a word. */
static bool is_alive(const char *name)
{
	long pid = strtol(name + strlen(MARK_PREFIX), NULL, 10);

	return pid > 0 && (!kill((pid_t)pid, 0) || errno == EPERM);
}

/* Does any process of the run have a VM? With @remove the files of all processes go. */
static bool look(const char *directory, bool remove)
{
	DIR *entries = opendir(directory);
	const struct dirent *entry;
	bool any = false;

	if (!entries)
		return false;
	while ((entry = readdir(entries))) {
		if (strncmp(entry->d_name, MARK_PREFIX, strlen(MARK_PREFIX)) != 0)
			continue;
		any |= is_alive(entry->d_name);
		if (remove || !is_alive(entry->d_name))
			unlinkat(dirfd(entries), entry->d_name, 0);
	}
	closedir(entries);
	return any;
}

bool run_vms_any(const char *directory)
{
	return look(directory, false);
}

void run_vms_remove(const char *directory)
{
	(void)look(directory, true);
}
