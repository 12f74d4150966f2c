/* The filter that sends the calls that matter to the engine. */
#ifndef QUIRE_ENGINE_FILTER_H
#define QUIRE_ENGINE_FILTER_H

/*
 * Trap system calls of the client's that the engine serves or has to know of. Those made by the
 * engine itself pass: the instruction pointer tells. Inherited by every child over exec, so it is
 * installed once a process tree. 0 or -errno.
 */
int filter_trap(void);

/* The client opens /dev/kvm: from here on reading, writing and seeking are trapped, too. */
void filter_trap_contents(void);

#endif
