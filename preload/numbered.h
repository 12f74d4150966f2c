/* Calls by their number that go by functions of ours: of trapped calls, and of syscall(3). */
#ifndef QUIRE_PRELOAD_NUMBERED_H
#define QUIRE_PRELOAD_NUMBERED_H

#include <stdbool.h>

#include "boundary/call.h"

/*
 * Perform @call if it changes memory or descriptors, which functions of ours keep account of.
 * *result is the kernel's. False: it is another call, and nothing was done.
 */
bool numbered_perform(const struct boundary_call *call, long *result);

/* What libc's functions return, as the kernel gives it. */
long numbered_result(long result);

#endif
