/* The system call itself, as the process makes its own. */
#include "boundary/call.h"

#include "hosts/process/sys.h"

long boundary_kernel(const struct boundary_call *call)
{
	return sys_call_six(call->nr, call->args);
}
