/* What a process has run is counted where it ends without its destructors, in a build with
 * coverage. */
#ifndef QUIRE_PRELOAD_COVERAGE_H
#define QUIRE_PRELOAD_COVERAGE_H

#ifdef QUIRE_COVERAGE
void __gcov_dump(void);
void __gcov_reset(void);
#endif

/* From here on it is counted anew: a child of vfork() has its parent's counters. */
static inline void coverage_keep(void)
{
#ifdef QUIRE_COVERAGE
	__gcov_dump();
	__gcov_reset();
#endif
}

#endif
