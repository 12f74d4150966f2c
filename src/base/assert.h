/* Assertions for our own bugs: they report, and may poison one VM; the process lives on. */
#ifndef QUIRE_BASE_ASSERT_H
#define QUIRE_BASE_ASSERT_H

#include "src/base/types.h"

/* Says @condition at @file:@line through the platform's report(). Always nonzero. */
int base_report_broken(const char *condition, const char *file, int line);

/* True, and one line of report, when the invariant @condition is broken. */
#define BROKEN(condition) \
	(unlikely(!(condition)) && base_report_broken(#condition, __FILE__, __LINE__))

/* In check builds, report a broken invariant; costs nothing elsewhere. */
#ifdef QUIRE_CHECK
#define CHECK(condition) ((void)BROKEN(condition))
#else
#define CHECK(condition) ((void)0)
#endif

#endif
