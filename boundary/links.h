/* Calls by a path that leads to an object: one of a link in /proc. */
#ifndef QUIRE_BOUNDARY_LINKS_H
#define QUIRE_BOUNDARY_LINKS_H

#include "boundary/place.h"
#include "boundary/rows.h"

/*
 * The object that a path leads to, as client_object_get() gives it; NULL when there is none. @fd is
 * what it was looked at through, to be closed by links_close(), also with NULL.
 */
struct file *links_object(const struct place *place, int *fd);
void links_close(int fd);

/* A stat, lstat, newfstatat or statx that succeeded: 0, with the object's own status, or -errno. */
long link_status(const struct boundary_call *call, const struct place *place);

#endif
