/* The system call itself, by the instruction or by an engine's gate. */
#include "boundary/call.h"

#include <stddef.h>

/* NULL: the instruction below. Set once, before the first call. */
static boundary_kernel_fn kernel_gate;

void boundary_set_kernel(boundary_kernel_fn gate)
{
	__atomic_store_n(&kernel_gate, gate, __ATOMIC_RELEASE);
}

static long instruction(const struct boundary_call *call)
{
	register unsigned long fourth __asm__("r10") = call->args[3];
	register unsigned long fifth __asm__("r8") = call->args[4];
	register unsigned long sixth __asm__("r9") = call->args[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(call->nr), "D"(call->args[0]), "S"(call->args[1]),
			   "d"(call->args[2]), "r"(fourth), "r"(fifth), "r"(sixth)
			 : "rcx", "r11", "memory");
	return result;
}

long boundary_kernel(const struct boundary_call *call)
{
	boundary_kernel_fn gate = __atomic_load_n(&kernel_gate, __ATOMIC_ACQUIRE);

	return gate ? gate(call) : instruction(call);
}
