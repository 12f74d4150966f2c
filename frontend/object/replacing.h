/* The client's calls that take mappings away, against a conversion that changes what they show. */
#ifndef QUIRE_FRONTEND_OBJECT_REPLACING_H
#define QUIRE_FRONTEND_OBJECT_REPLACING_H

#include <stdint.h>

/*
 * A conversion looks at the kernel's list for a mapping of its file, and then changes what is
 * mapped there; that call names an address and no file. So between the two no call of the client's
 * may put another file there. Each call that can is in a list while it runs, with nothing of ours
 * held: it may wait in the kernel for a userfaultfd reader.
 */
struct replacing {
	uintptr_t start, end;
	struct replacing *next, **link; /* @link NULL: not in the list */
};

/*
 * The call that follows may take away what is mapped in [start, end), which may be empty. @call is
 * the caller's, and in the list until replacing_end(). Waits for one change of a conversion.
 */
void replacing_begin(struct replacing *call, uintptr_t start, uintptr_t end);
void replacing_end(struct replacing *call);

/*
 * What is mapped in [start, end) stays until replacing_release(). Waits for calls in progress that
 * may change that, but not for ever, since the reader that one waits for may need the caller:
 * -EAGAIN. The holder makes no call that waits for the client.
 */
int replacing_hold(uintptr_t start, uintptr_t end);
/* The same without waiting: for what is put back. */
void replacing_hold_anyway(void);
void replacing_release(void);

#endif
