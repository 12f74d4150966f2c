/* Calls that wait with a signal mask of their own. */
#ifndef QUIRE_ENGINE_MASKS_H
#define QUIRE_ENGINE_MASKS_H

#include "engine/trap.h"

/*
 * Put the mask of @trap, without the signals that must reach us, into the room at @room on the
 * client's stack, and let the call use it there. 0 or -errno for the client.
 */
long masks_place(struct trap *trap, uint64_t room);

#endif
