/* The runs of this user that the machine has now: their directories. */
#include "cli/look/runs.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMORY_PARENT "/dev/shm"
#define DISK_PARENT "/tmp"

static const char *chosen_parent(void)
{
	const char *parent = getenv("TMPDIR");

	return parent && parent[0] == '/' ? parent : DISK_PARENT;
}

const char *runs_parent(void)
{
	return access(MEMORY_PARENT, W_OK) ? chosen_parent() : MEMORY_PARENT;
}

void runs_each_in(const char *parent, run_fn *visit, void *ctx)
{
	DIR *listing = opendir(parent);
	char path[PATH_MAX];
	struct dirent *entry;
	struct stat status;
	int pid;

	while (listing && (entry = readdir(listing))) {
		if (sscanf(entry->d_name, RUNS_NAME, &pid) != 1 || pid <= 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s", parent, entry->d_name);
		if (!lstat(path, &status) && S_ISDIR(status.st_mode) && status.st_uid == geteuid())
			visit(path, pid, ctx);
	}
	if (listing)
		closedir(listing);
}

void runs_each(run_fn *visit, void *ctx)
{
	const char *chosen = chosen_parent();

	runs_each_in(MEMORY_PARENT, visit, ctx);
	runs_each_in(DISK_PARENT, visit, ctx);
	if (strcmp(chosen, DISK_PARENT) && strcmp(chosen, MEMORY_PARENT))
		runs_each_in(chosen, visit, ctx);
}
