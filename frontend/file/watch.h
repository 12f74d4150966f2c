/* Which files are gone: the kernel tells of the end of an inode, in whichever process it comes. */
#ifndef QUIRE_FRONTEND_FILE_WATCH_H
#define QUIRE_FRONTEND_FILE_WATCH_H

/*
 * One descriptor of the process's, hidden (frontend/file/hidden_fd.h), for all its files. An inode
 * ends when the last descriptor, mapping and message that holds it is gone. Every function but
 * file_watch_wait() is called with the lock of the table of files held.
 */

/* Before the first. Holds a number of the client's for a moment. Without it none is watched. */
void file_watch_start(void);
/* Watch the inode of @fd: a number above 0 that is never used twice, or -errno. */
int file_watch_add(int fd);

#define FILE_WATCH_NONE 0
/* The kernel had no room for all: those of file_watch_alive() are all that are left. */
#define FILE_WATCH_LOST (-1)
/* The number of a watch whose inode is gone. Each is told once. */
int file_watch_next(void);
/* Call @alive for each watch whose inode is there. 0, or -errno when that cannot be known. */
int file_watch_alive(void (*alive)(int watch));

/* Wait until file_watch_next() has something to say, perhaps. Any thread, without a lock. */
void file_watch_wait(void);

/* The client puts something of its own at the hidden number @fd. */
void file_watch_move(int fd);
/* In the child of a fork: the watches are the parent's. */
void file_watch_forget(void);

#endif
