/* Where trace events go. */
#include "src/base/trace.h"

quire_trace_fn quire_trace_record;
quire_timed_fn quire_trace_timed;

void quire_trace_install(quire_trace_fn record)
{
	__atomic_store_n(&quire_trace_record, record, __ATOMIC_RELAXED);
}

void quire_trace_install_timed(quire_timed_fn record)
{
	__atomic_store_n(&quire_trace_timed, record, __ATOMIC_RELAXED);
}

void quire_trace_emit(enum quire_trace_event event, const uint64_t *args)
{
	quire_trace_fn record = __atomic_load_n(&quire_trace_record, __ATOMIC_RELAXED);

	if (record)
		record(event, args);
}
