/* Programs that the client executes: all of them start on the engine. */
#ifndef QUIRE_ENGINE_EXEC_H
#define QUIRE_ENGINE_EXEC_H

#include "engine/trap.h"

/* execve or execveat. Returns only with an error. */
long exec_serve(struct trap *trap);

#endif
