/* For --sanitize=dirty: which of the client's memory a system call reads or writes. */
#ifndef QUIRE_BOUNDARY_COPIED_H
#define QUIRE_BOUNDARY_COPIED_H

#include <stdbool.h>

#include "boundary/call.h"
#include "sanitize/report.h"

/* Is the call one that moves bytes between memory and a descriptor or a process? */
bool copied_knows(long nr);

/* Tell the detector of what @call, which is about to be made, reads or writes. */
void copied_tell(const struct boundary_call *call);

static inline void copied_note(const struct boundary_call *call)
{
	if (__builtin_expect(sanitize_is_on(SANITIZE_DIRTY), 0))
		copied_tell(call);
}

#endif
