/* The system call itself, by the process's own gate or by an engine's. */
#include "boundary/call.h"

#include <stddef.h>

#include "hosts/process/sys.h"

/* NULL: as the process makes its own. Set once, before the first call. */
static boundary_kernel_fn kernel_gate;

void boundary_set_kernel(boundary_kernel_fn gate)
{
	__atomic_store_n(&kernel_gate, gate, __ATOMIC_RELEASE);
}

long boundary_kernel(const struct boundary_call *call)
{
	boundary_kernel_fn gate = __atomic_load_n(&kernel_gate, __ATOMIC_ACQUIRE);

	return gate ? gate(call) : sys_call_six(call->nr, call->args);
}
