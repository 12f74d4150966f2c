/* Files of the run's directory, mapped: without room for a page a touch of it would be SIGBUS. */
#ifndef QUIRE_FRONTEND_REPORT_ROOM_H
#define QUIRE_FRONTEND_REPORT_ROOM_H

#include <stddef.h>

/* Have the pages on their file system, or learn here that there is no room for them. 0 or -errno.
 */
int room_make(void *start, size_t size_bytes);
/*
 * Map a file, of which the first @open_bytes can be written, and have room. The rest is closed: a
 * client's mlockall() would make each page of it. NULL without that room: the file is unlinked
 * then, since reading a hole of it would take room, too. Closes @fd.
 */
void *room_map(const char *path, int fd, size_t size_bytes, size_t open_bytes);
/* Let whole pages of such a file be written. 0 or -errno. */
long room_open(void *start, size_t size_bytes);

#endif
