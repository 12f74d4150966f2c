/* Descriptors of ours in the client's table, numbered where the client does not look. */
#ifndef QUIRE_FRONTEND_FILE_HIDDEN_FD_H
#define QUIRE_FRONTEND_FILE_HIDDEN_FD_H

#include <stdbool.h>

/* Close a hidden @fd. */
void hidden_fd_close(int fd);
/*
 * A second open file description of what @fd refers to, at the lowest number that is free. -errno
 * on failure. Any thread; inside a client call.
 */
int hidden_fd_open_again(int fd, int flags);
/*
 * @fd, which the caller has just made, at a hidden number: close-on-exec, past the client's soft
 * limit where that can be had. Closes @fd itself. -errno on failure; with @fd below 0 that of
 * errno.
 */
int hidden_fd_hide(int fd);
/*
 * Duplicate @fd, which may be hidden or not, to a hidden number as hidden_fd_hide() does: that
 * number or -errno. @fd itself stays open, but no longer counts as hidden.
 */
int hidden_fd_move(int fd);
/*
 * Before the client may change its root or its user: keep a way to /proc, by which alone a
 * descriptor is opened a second time, and the files of hosts/process/proc_files.h, unless the
 * client has few numbers. Cheap after the first time. It holds a number of the client's for
 * moments, so it is called where one is about to be given out.
 */
void hidden_fd_keep_proc(void);
/* What hidden_fd_keep_proc() keeps of /proc itself, or -1. */
int hidden_fd_kept_proc(void);
/*
 * The running thread, one of ours, gets a table of descriptors of its own, empty but for the way to
 * /proc of a client that left its root. 0 or -errno.
 */
long hidden_fd_leave_table(void);
/* The client puts something of its own at @fd: move what hidden_fd_keep_proc() keeps there. */
void hidden_fd_move_proc(int fd);
/* In the child of a fork: files about memory tell of the parent's. */
void hidden_fd_forget_proc(void);
bool hidden_fd_is(int fd);
/* Was any number ever hidden? A process may have hidden ones and no object yet. */
bool hidden_fd_any(void);
/* The lowest hidden number >= @from, or -1. */
int hidden_fd_next(int from);

#endif
