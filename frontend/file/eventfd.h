/* Eventfds of the client: what is one, and which descriptors stand for the same. */
#ifndef QUIRE_FRONTEND_FILE_EVENTFD_H
#define QUIRE_FRONTEND_FILE_EVENTFD_H

#include <stdbool.h>
#include <stdint.h>

/* Is @fd an eventfd? 0, -EBADF, or -EINVAL when it is something else. */
int eventfd_check(int fd);
/* Do two descriptors stand for one eventfd? */
bool eventfd_same(int a, int b);

/* An eventfd in an epoll set, which the kernel takes out when its last descriptor is closed. */
struct eventfd_watch {
	int epoll_fd;
	int number;  /* under which it was put in; no other is in this set under the same */
	uint64_t id; /* eventfd_id() of then */
};

/*
 * The kernel's number of the eventfd behind @fd, where the machine forbids to compare descriptors;
 * elsewhere 0. No two that live have the same.
 */
uint64_t eventfd_id(int fd);

enum eventfd_match { EVENTFD_SAME, EVENTFD_OTHER, EVENTFD_GONE };
/* Is it the eventfd behind @fd, whose eventfd_id() is @id? EVENTFD_GONE may be answered late. */
enum eventfd_match eventfd_match(const struct eventfd_watch *watch, int fd, uint64_t id);
bool eventfd_is_gone(const struct eventfd_watch *watch);

#endif
