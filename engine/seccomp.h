/* Filters that the client installs later. */
#ifndef QUIRE_ENGINE_SECCOMP_H
#define QUIRE_ENGINE_SECCOMP_H

#include "engine/trap.h"

/* seccomp(2), or prctl(2) with PR_SET_SECCOMP: TRAP_ANSWERED with *@result, or TRAP_FORWARD. */
enum trap_outcome seccomp_serve(const struct trap *trap, long *result);

#endif
