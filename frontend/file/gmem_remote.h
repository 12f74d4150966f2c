/* fallocate of a guest_memfd by a child of the process that made it: the maker does it. */
#ifndef QUIRE_FRONTEND_FILE_GMEM_REMOTE_H
#define QUIRE_FRONTEND_FILE_GMEM_REMOTE_H

#include <stdint.h>
#include <sys/types.h>

#include "frontend/file/file.h"

/* A guest_memfd of this process was made (1), or is gone (-1): only then a fork needs to be served.
 */
void gmem_remote_count(int change);

/* Which process of a line of forks this is: of the files that it makes. */
uint32_t gmem_remote_generation(void);

/*
 * In a child: have the process that made @file, an ancestor, allocate or punch. What it answered;
 * -EIO when it has ended, or cannot be asked.
 */
int gmem_remote_allocate(const struct file *file, int mode, off_t offset_bytes, off_t size_bytes);

#endif
