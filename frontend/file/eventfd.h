/* Eventfds of the client: what is one, and which descriptors stand for the same. */
#ifndef QUIRE_FRONTEND_FILE_EVENTFD_H
#define QUIRE_FRONTEND_FILE_EVENTFD_H

#include <stdbool.h>
#include <stdint.h>

/* Is @fd an eventfd? 0, -EBADF, or -EINVAL when it is something else. */
int eventfd_check(int fd);
/* Do two descriptors stand for one eventfd? */
bool eventfd_same(int a, int b);

/*
 * Add one to the count, and never wait, with a blocking descriptor either: a full count stays full,
 * for the client has not looked yet and will. 0 or -errno. Calls at the gate, any lock.
 */
int eventfd_signal(int fd);

/*
 * The kernel's number of the eventfd behind @fd; 0 where it tells none (before Linux 5.2). No two
 * that live have the same.
 */
uint64_t eventfd_id(int fd);

/* An eventfd in an epoll set, which the kernel takes out when its last descriptor is closed. */
struct eventfd_watch {
	int number;   /* under which it was put in; no other is in this set under the same */
	uint64_t key; /* its epoll_event.data, which no other of this set has */
	uint64_t id;  /* eventfd_id() of then */
};

/* Is @watch of the set @epoll_fd the eventfd behind @fd? */
bool eventfd_matches(int epoll_fd, const struct eventfd_watch *watch, int fd);
bool eventfd_is_gone(int epoll_fd, const struct eventfd_watch *watch);
/* Calls @live with the key of each in the set. 0, or -EIO when the kernel does not tell. */
int eventfd_live(int epoll_fd, void (*live)(uint64_t key, void *context), void *context);

#endif
