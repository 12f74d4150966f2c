/* Calls that end the process without its destructors: the reports of a run are brought up to date.
 */
#include <unistd.h>

#include "frontend/report/report.h"
#include "preload/real.h"

#ifdef QUIRE_COVERAGE
void __gcov_dump(void);
#endif

INTERPOSED void _exit(int status)
{
	report_last();
#ifdef QUIRE_COVERAGE
	/* Most tests end so: what they ran is counted. */
	__gcov_dump();
#endif
	REAL(_exit)(status);
	__builtin_unreachable();
}

INTERPOSED_ALIAS("_exit") void _Exit(int status);
