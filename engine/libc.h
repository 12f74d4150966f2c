/* What the engine changes in the libc that it is linked with. */
#ifndef QUIRE_ENGINE_LIBC_H
#define QUIRE_ENGINE_LIBC_H

#include <stdint.h>

/* A fork as the client asked for it: clone or clone3 without CLONE_VM. */
struct libc_fork {
	long number;
	uint64_t args[6];
	uint64_t flags; /* those of clone or clone3 */
};

/*
 * fork(3) of the engine's libc, with all that it does around the system call, around @request.
 * The child's number, 0 in the child, or -errno.
 */
long libc_fork(const struct libc_fork *request);

/* libc asks a thread for its number by its thread pointer: the running thread's. */
void libc_set_tid(int tid);

#endif
