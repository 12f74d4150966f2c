/* A thin entry: a call of libc's that ends in the boundary (boundary/call.h). */
#ifndef QUIRE_PRELOAD_ENTRY_H
#define QUIRE_PRELOAD_ENTRY_H

#include <errno.h>
#include <stdbool.h>
#include <sys/syscall.h>

#include "boundary/call.h"
#include "frontend/file/file.h"
#include "frontend/param/params.h"
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
#define ENTRY_UNLESS(is_alone, number, real, ...)                                                \
	({                                                                                       \
		const struct boundary_call entry_call = {.nr = (number), .args = {__VA_ARGS__}}; \
		long entry_result;                                                               \
		!(is_alone) && boundary_try(&entry_call, &entry_result) == BOUNDARY_ANSWERED     \
		    ? (__typeof__(real))real_result(entry_result)                                \
		    : (real);                                                                    \
	})
#define ENTRY(...) ENTRY_UNLESS(is_libc_alone(), __VA_ARGS__)
/* A write may be one to a parameter, which is there before any object is. */
#define WRITE_ENTRY(...) \
	ENTRY_UNLESS(client_call_active() || (!file_any() && !params_any_open()), __VA_ARGS__)

/* The kernel's result of libc's @result of a call that was forwarded, settled. */
static inline long entry_settle(const struct boundary_call *call, long result)
{
	return boundary_settle(call, result == -1 ? -(long)errno : result);
}

/* The same for a call on a path, which can make the first object; what was forwarded is settled. */
#define ENTRY_ON_PATH(number, real, ...)                                                         \
	({                                                                                       \
		const struct boundary_call entry_call = {.nr = (number), .args = {__VA_ARGS__}}; \
		long entry_result;                                                               \
		if (client_call_active())                                                        \
			entry_result = (real);                                                   \
		else if (boundary_try(&entry_call, &entry_result) == BOUNDARY_ANSWERED)          \
			entry_result = real_result(entry_result);                                \
		else                                                                             \
			entry_result = real_result(entry_settle(&entry_call, (real)));           \
		(__typeof__(real))entry_result;                                                  \
	})

#endif
