/* Memory of ours behind a file. */
#ifndef QUIRE_FRONTEND_FILE_MEMORY_H
#define QUIRE_FRONTEND_FILE_MEMORY_H

#include <stdint.h>

/*
 * Shared, zero, aligned for huge pages, not inherited by fork; munmap() ends it. -ENOMEM or another
 * -errno on failure, with nothing mapped.
 */

/* The pages of @fd, which the client can map too. */
int file_memory_map(int fd, uint64_t size_bytes, void **memory);
/* Pages that no descriptor leads to, and no path but the kernel's view of our own mappings. */
int file_memory_make(uint64_t size_bytes, void **memory);

/* The same in huge pages of 2^@log2 bytes, of which @size_bytes is a multiple: the machine's pool
 * keeps them all for this. -EINVAL: it knows no pages of that size. */
int file_memory_make_huge(uint64_t size_bytes, unsigned int log2, void **memory);

/*
 * Give @fd its size, whatever limit the client has set on files: KVM's are none of that kind. 0 or
 * -errno; -EFBIG where the limit cannot be raised, and without the signal.
 */
int file_size_set(int fd, uint64_t size_bytes);

#endif
