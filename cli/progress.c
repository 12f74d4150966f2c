/* How far a program's long work is, told to the program that started it. */
#include "cli/progress.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VARIABLE "QUIRE_PROGRESS_FD"
#define PERIOD_NS 100000000u
#define NS_PER_S 1000000000u

/* The descriptor that the environment names; -1: none. What we start does not inherit it. */
static int find_descriptor(void)
{
	const char *text = getenv(VARIABLE);
	int fd = text ? atoi(text) : -1;

	return fd > 2 && !fcntl(fd, F_SETFD, FD_CLOEXEC) ? fd : -1;
}

void progress_tell(uint64_t done, uint64_t total)
{
	static bool looked;
	static int fd = -1;
	static uint64_t told_ns;
	struct timespec now;
	uint64_t now_ns;

	if (!looked)
		fd = find_descriptor();
	looked = true;
	if (fd < 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
	if (done < total && now_ns - told_ns < PERIOD_NS)
		return;
	told_ns = now_ns;
	if (dprintf(fd, "%" PRIu64 " %" PRIu64 "\n", done, total) < 0)
		fd = -1;
}
