/* prctl(2): a filter of system calls that the client installs lets pass what we make. */
#include <stdarg.h>
#include <sys/prctl.h>

#include "preload/client_filter.h"
#include "preload/entry.h"
#include "preload/trap.h"

INTERPOSED int prctl(int option, ...)
{
	struct boundary_call call = {.nr = SYS_prctl, .args = {ARGUMENT(option)}};
	va_list arguments;
	long result;

	va_start(arguments, option);
	for (int i = 1; i < 5; i++)
		call.args[i] = va_arg(arguments, unsigned long);
	va_end(arguments);
	if (!client_call_active() && trap_serve_filter(&call, &result))
		return (int)real_result(result);
	return REAL(prctl)(option, call.args[1], call.args[2], call.args[3], call.args[4]);
}
