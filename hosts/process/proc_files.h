/*
 * Files of /proc that tell about this process's memory. They are asked in KVM_RUN, where an open()
 * would take a number of the client's for a moment: so the front-end keeps them open.
 */
#ifndef QUIRE_HOSTS_PROCESS_PROC_FILES_H
#define QUIRE_HOSTS_PROCESS_PROC_FILES_H

#include <stdbool.h>

enum proc_file { PROC_MAPS, PROC_SMAPS, PROC_PAGEMAP, PROC_FILES };

/* Its path. */
const char *proc_file_path(enum proc_file which);

/*
 * Use @fd from here on, which the caller opened at proc_file_path() in this process and leaves
 * open; -1: open the file each time. A child of fork() uses none of its parent's.
 */
void proc_file_keep(enum proc_file which, int fd);
/* What proc_file_keep() was told last, or -1. */
int proc_file_kept(enum proc_file which);

/* For proc_file_close(), or -errno. Read it by pread(): another thread may be reading, too. */
long proc_file_open(enum proc_file which);
void proc_file_close(enum proc_file which, long fd);
/*
 * For a call on @fd that failed. True: @fd was kept, but is another file now, because the client
 * closed it unseen. It is kept no longer, and the next proc_file_open() opens the file.
 */
bool proc_file_is_lost(enum proc_file which, long fd);

#endif
