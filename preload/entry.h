/* A thin entry: a call of libc's that ends in the boundary (boundary/call.h). */
#ifndef QUIRE_PRELOAD_ENTRY_H
#define QUIRE_PRELOAD_ENTRY_H

#include <stdbool.h>
#include <sys/syscall.h>

#include "boundary/call.h"
#include "frontend/file.h"
#include "preload/real.h"

/* Is the call one of our own, or is there no object that it could reach? */
static inline bool is_libc_alone(void)
{
	return client_call_active() || !file_any();
}

/*
 * What the boundary answers, as libc gives it; what it forwards goes to the function that we stand
 * before. Each argument is converted as the kernel's entry would get it.
 */
#define ARGUMENT(value) ((unsigned long)(value))
#define ENTRY(number, real, ...)                                                                  \
	({                                                                                        \
		const struct boundary_call entry_call = {.nr = (number), .args = {__VA_ARGS__}};  \
		long entry_result;                                                                \
		!is_libc_alone() && boundary_try(&entry_call, &entry_result) == BOUNDARY_ANSWERED \
		    ? (__typeof__(real))real_result(entry_result)                                 \
		    : (real);                                                                     \
	})

#endif
