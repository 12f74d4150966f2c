/* Calls that end the process without its destructors: the reports of a run are brought up to date.
 */
#include <unistd.h>

#include "frontend/report/report.h"
#include "preload/coverage.h"
#include "preload/real.h"

INTERPOSED void _exit(int status)
{
	report_last(REPORT_PROCESS_ENDS);
	/* Most tests end so. */
	coverage_keep();
	REAL(_exit)(status);
	__builtin_unreachable();
}

INTERPOSED_ALIAS("_exit") void _Exit(int status);
