/* The installed platform, and the record of the running thread. */
#ifndef QUIRE_BASE_PLATFORM_H
#define QUIRE_BASE_PLATFORM_H

#include <quire/platform.h>

#include "src/base/types.h"

extern const struct quire_platform *base_platform;

static inline struct quire_thread *base_self(void)
{
	return base_platform->self();
}

#ifdef QUIRE_SCHED
/* Not 0 between base_sched_pause() and base_sched_resume(): the memory model of the simulation asks
 * at each access. */
extern u32 base_sched_paused;
#endif

/* Head of the list of all thread records; grows at the head, never shrinks. */
struct quire_thread *base_threads(void);

#endif
