/* Memory calls that vCPUs must hear of. */
#ifndef QUIRE_PRELOAD_MEMORY_H
#define QUIRE_PRELOAD_MEMORY_H

#include <stdbool.h>

/* Is this ioctl one of a userfaultfd that changes what addresses mean? */
bool memory_is_userfault_change(unsigned long command);
/* Make it, with the vCPUs out of its range: what ioctl(2) returns. */
long memory_userfault_ioctl(int fd, unsigned long command, unsigned long argument,
			    long (*forward)(int fd, unsigned long command, unsigned long argument));

#endif
