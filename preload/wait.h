/* Calls that wait for children. */
#ifndef QUIRE_PRELOAD_WAIT_H
#define QUIRE_PRELOAD_WAIT_H

/*
 * A call has waited for a child, perhaps inside libc: what the child's end has ended is released
 * when this returns. Keeps errno; does nothing inside a client call.
 */
void wait_is_over(void);

#endif
