/* This process as its client is to see it. */
#include "engine/image.h"

#include <stdio.h>
#include <string.h>

#include "hosts/process/sys.h"

struct image image;

bool image_is_own(const char *path)
{
	char own[32];

	if (strncmp(path, "/proc/", 6))
		return false;
	if (!strcmp(path, "/proc/self/exe") || !strcmp(path, "/proc/thread-self/exe"))
		return true;
	snprintf(own, sizeof(own), "/proc/%d/exe", (int)sys_call(SYS_getpid, 0));
	return !strcmp(path, own);
}
