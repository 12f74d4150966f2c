/* Filters of system calls that the client installs later: they let pass what we make. */
#ifndef QUIRE_PRELOAD_CLIENT_FILTER_H
#define QUIRE_PRELOAD_CLIENT_FILTER_H

#include <stdbool.h>
#include <stdint.h>

#include "boundary/call.h"

/* At most; it is mapped alone. */
#define VDSO_BYTES 0x4000u

/* Where calls of ours come from: the first address after a "syscall", and how many there are. */
#define CLIENT_FILTER_GATES 2
struct client_filter_gates {
	struct {
		uint64_t start;
		uint32_t bytes;
	} gate[CLIENT_FILTER_GATES];
};

/*
 * A filter that @call installs (seccomp, prctl) gets a beginning that lets the gates pass, and
 * *result is the kernel's. False: it is another call.
 */
bool client_filter_install(const struct boundary_call *call,
			   const struct client_filter_gates *gates, long *result);

#endif
