/* Memory that objects of the front end and of the vCPU are made of. */
#ifndef QUIRE_HOSTS_PROCESS_HEAP_H
#define QUIRE_HOSTS_PROCESS_HEAP_H

#include <stddef.h>

/*
 * Not malloc(): another thread may stand in fork(), with libc's locks held, until the client's
 * userfaultfd reader goes on, and that may be the caller. And a trapped call may come from inside
 * an allocator of the client's.
 *
 * Zeroed, and aligned to 64 bytes; NULL: no memory. free() takes NULL.
 */
__attribute__((warn_unused_result)) void *process_heap_alloc(size_t size_bytes);
__attribute__((warn_unused_result)) void *process_heap_array(size_t count, size_t size_bytes);
void process_heap_free(void *memory);

#endif
