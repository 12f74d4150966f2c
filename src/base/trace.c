/* Where trace events go. */
#include <quire/trace.h>

quire_trace_fn quire_trace_record;

void quire_trace_install(quire_trace_fn record)
{
	__atomic_store_n(&quire_trace_record, record, __ATOMIC_RELAXED);
}
