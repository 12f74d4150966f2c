/* New threads and processes of the client's. */
#ifndef QUIRE_ENGINE_CLONE_H
#define QUIRE_ENGINE_CLONE_H

#include "engine/trap.h"

/* clone, clone3, fork or vfork: the result for the parent and, in the child of a fork, 0. */
long clone_serve(struct trap *trap);

#endif
