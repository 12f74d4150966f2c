/* Lines of the kernel's texts in /proc, without memory of libc's. */
#ifndef QUIRE_FRONTEND_FILE_LINES_H
#define QUIRE_FRONTEND_FILE_LINES_H

#include <stdbool.h>

/* What a longer line is cut to, with the end of the string. */
#define LINES_BYTES 256

/*
 * Calls @line with each line of the file at @path, which begins with "/proc/", without its end,
 * until it returns false. 0 or -errno. A stream of libc's would come from malloc(): in a thread of
 * ours that makes a heap for the thread, wherever the kernel has a hole, and that may be under a
 * slot.
 */
int lines_read(const char *path, bool (*line)(void *context, const char *text), void *context);

/* Opens the file at @path, which begins with "/proc/", for reading: a descriptor or -errno. */
long lines_open(const char *path);

#endif
