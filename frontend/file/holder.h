/* Second descriptions of the client's files, in a table of descriptors that is not the client's. */
#ifndef QUIRE_FRONTEND_FILE_HOLDER_H
#define QUIRE_FRONTEND_FILE_HOLDER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A thread of ours has a table of its own, so what it holds takes none of the client's numbers, and
 * no limit that the client comes to before it. The other functions name what it holds by the result
 * of holder_open(). Each is a question to that thread, which never waits for the client. Inside a
 * client call, any lock but holder_lock. In the child of a fork nothing is held.
 */

/*
 * Another open file description of what the calling thread has open at @fd. -errno where there is
 * no such thread to be had (before Linux 5.9), or no /proc.
 */
int holder_open(int fd);
/* file_memory_map() of it: the mapping keeps this description alive, not the client's. */
int holder_map(int held, uint64_t size_bytes, void **memory);
/* Takes flock(2)'s exclusive lock for the description, if no other has it now. */
bool holder_takes_lock(int held);
void holder_close(int held);

#endif
