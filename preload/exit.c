/* Calls that end the process without its destructors: the reports of a run are brought up to date.
 */
#include "preload/exit.h"

#include <stdlib.h>
#include <unistd.h>

#include "frontend/report/report.h"
#include "preload/coverage.h"
#include "preload/real.h"

void exit_prepare(void)
{
	report_last(REPORT_PROCESS_ENDS);
	/* Most tests end so. */
	coverage_keep();
}

/* Of quick_exit(3)'s handlers the first one is the last to run. */
__attribute__((constructor)) static void prepare_quick_exit(void)
{
	(void)at_quick_exit(exit_prepare);
}

INTERPOSED void _exit(int status)
{
	exit_prepare();
	REAL(_exit)(status);
	__builtin_unreachable();
}

INTERPOSED_ALIAS("_exit") void _Exit(int status);
