/* Eventfds of the client: what is one, and which descriptors stand for the same. */
#ifndef QUIRE_FRONTEND_FILE_EVENTFD_H
#define QUIRE_FRONTEND_FILE_EVENTFD_H

#include <stdint.h>

/* Is @fd an eventfd? 0, -EBADF, or -EINVAL when it is something else. */
int eventfd_check(int fd);
/*
 * An order of eventfds: 0 when @a and @b are one and the same, else which comes first. It is the
 * same for every descriptor of an eventfd and as long as the eventfd lives. A descriptor that is
 * not open is never the same as another, and has no place in the order.
 */
int eventfd_compare(int a, int b);
/* The kernel's number for the eventfd behind @fd, which no other has while it lives; 0: none. */
uint64_t eventfd_id(int fd);

#endif
