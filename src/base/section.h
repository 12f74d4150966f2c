/* Sections that may sleep, and waiting for those that are open. */
#ifndef QUIRE_BASE_SECTION_H
#define QUIRE_BASE_SECTION_H

#include "src/base/atomic.h"

/*
 * Like read sections (base/reclaim.h), but sections of one object, which may sleep, and cost two
 * exchanges on a shared line. Zero it to start.
 *
 *   section                                   waiter
 *   inside[turn]++   (full fence)             unlink
 *   read what is to be used                   turn changes (full fence)
 *   use it, may sleep                         wait while inside[the turn before]
 *   inside[turn]--                            the same once more, for the other turn
 *
 * Either it is seen and waited for, or it reads after the unlink. Newcomers join the other count,
 * so that the wait ends. Twice, for one may have read the turn long before it joins: it is not
 * waited for now, since it reads later, but has to be by the next waiter.
 */
struct long_sections {
	u32 turn;      /* (a) the count that newcomers join */
	u32 inside[2]; /* (a) waited on */
	u32 waiting;   /* (a) a thread waits */
};

/* Returns what to hand to long_section_leave(). A full fence. */
static inline u32 long_section_enter(struct long_sections *sections)
{
	u32 turn = atomic_load_relaxed_u32(&sections->turn);

	(void)atomic_fetch_add_u32(&sections->inside[turn], 1);
	return turn;
}

void long_section_leave(struct long_sections *sections, u32 turn);

/* Wait until every section that is open now has ended. One caller at a time; sleeps. */
void long_sections_wait(struct long_sections *sections);

#endif
