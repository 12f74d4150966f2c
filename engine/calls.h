/* Trapped calls that name paths, descriptors or memory: brought to what preload/ does with them. */
#ifndef QUIRE_ENGINE_CALLS_H
#define QUIRE_ENGINE_CALLS_H

#include "engine/trap.h"

/* TRAP_ANSWERED with *@result, or TRAP_FORWARD: the call is the kernel's. */
enum trap_outcome calls_serve(struct trap *trap, long *result);

#endif
