/* Which files are gone: the kernel tells of the end of an inode, in whichever process it comes. */
#ifndef QUIRE_FRONTEND_FILE_WATCH_H
#define QUIRE_FRONTEND_FILE_WATCH_H

#include <stdbool.h>

/*
 * One descriptor of the process's, hidden (frontend/file/hidden_fd.h), for all its files. An inode
 * ends when the last descriptor, mapping and message that holds it is gone. Every function but the
 * two of the thread is called with the lock of the table of files held.
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

/*
 * A thread of ours that calls @collect when file_watch_next() may have something to say, as long as
 * the result is that files are waited for. It is started when a file is made whose end is work,
 * not when one is closed: pthread_create() allocates, and a fork that holds libc's allocator may
 * wait for the reader of a userfaultfd that closes. Under a client's filter of that time, no thread
 * may be had. Any thread, no lock held.
 */
void file_watch_start_thread(bool (*collect)(void));
/* There is a file to wait for. The same conditions. */
void file_watch_wake(bool (*collect)(void));

/* The client puts something of its own at the hidden number @fd. */
void file_watch_move(int fd);
/* In the child of a fork: the watches are the parent's. */
void file_watch_forget(void);

#endif
