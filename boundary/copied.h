/* For sanitizers: which of the client's memory a system call reads or writes. */
#ifndef QUIRE_BOUNDARY_COPIED_H
#define QUIRE_BOUNDARY_COPIED_H

#include <stdbool.h>

#include "boundary/call.h"
#include "sanitize/report.h"

/* Is the call one that moves bytes between memory and a descriptor or a process? */
bool copied_knows(long nr);

/* Tell the detectors of what @call, which is about to be made, reads or writes. */
void copied_tell(const struct boundary_call *call);

/* Does this ioctl of a userfaultfd's fill memory? */
bool copied_knows_userfault(unsigned long command);
/* The same of such an ioctl; nothing of others. Inside a client call. Keeps errno. */
void copied_tell_userfault(unsigned long command, unsigned long argument);

/* Does a detector ask? One load. */
static inline bool copied_is_wanted(void)
{
	const uint32_t kinds = 1u << SANITIZE_DIRTY | 1u << SANITIZE_PRIVATE;

	return __builtin_expect(sanitize_kinds & kinds, 0);
}

static inline void copied_note(const struct boundary_call *call)
{
	if (copied_is_wanted())
		copied_tell(call);
}

#endif
