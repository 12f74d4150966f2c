/* Descriptors of ours in the client's table, numbered where the client does not look. */
#ifndef QUIRE_FRONTEND_FILE_HIDDEN_FD_H
#define QUIRE_FRONTEND_FILE_HIDDEN_FD_H

#include <stdbool.h>

/*
 * A second open file description of what @fd refers to, close-on-exec, at a number past the
 * client's soft limit where that can be had. -errno on failure. Any thread; inside a client call.
 */
int hidden_fd_reopen(int fd);
/* Close @fd, which hidden_fd_reopen() or hidden_fd_move() gave. */
void hidden_fd_close(int fd);
/* Duplicate the hidden @fd to another hidden number (-errno); @fd itself stays open but is no
 * longer counted as hidden. */
int hidden_fd_move(int fd);
/*
 * Before the client may change its root or its user: keep a way to /proc, by which alone a
 * descriptor is opened a second time. Cheap after the first time.
 */
void hidden_fd_keep_proc(void);
/* The client puts something of its own at @fd: move the way to /proc, if it is there. */
void hidden_fd_move_proc(int fd);
bool hidden_fd_is(int fd);
/* The lowest hidden number >= @from, or -1. */
int hidden_fd_next(int from);

#endif
