/* Where trace events go. */
#include "src/base/trace.h"

#include "src/base/types.h"

#ifdef QUIRE_PROBES
#define _SDT_HAS_SEMAPHORES 1
#define SDT_USE_VARIADIC 1
#include <sys/sdt.h>
/* In the file, as a tracer names the place in it. */
#define IN_PROBES __attribute__((section(".probes")))
#else
#define IN_PROBES
#endif

union trace_listeners quire_trace_listeners IN_PROBES = {.any = 0};
static quire_trace_fn trace_record;
quire_timed_fn quire_trace_timed;

void quire_trace_install(quire_trace_fn record)
{
	__atomic_store_n(&trace_record, record, __ATOMIC_RELAXED);
	__atomic_store_n(&quire_trace_listeners.functions, record != NULL, __ATOMIC_RELAXED);
}

void quire_trace_install_timed(quire_timed_fn record)
{
	__atomic_store_n(&quire_trace_timed, record, __ATOMIC_RELAXED);
}

#ifdef QUIRE_PROBES
/* A probe's semaphore, which tracers count up; all events have the one that trace points look at.
 */
#define SEMAPHORE(group, name, fields)                 \
	extern unsigned short quire_##name##_semaphore \
	    __attribute__((alias("quire_trace_listeners"), visibility("hidden")));
#define NO_FIELD(type, name)
QUIRE_TRACE_EVENTS(SEMAPHORE, NO_FIELD)

#define WORD(type, name) u64 name;
#define WORDS(group, name, fields) \
	struct words_##name {      \
		fields             \
	};
QUIRE_TRACE_EVENTS(WORDS, WORD)

#define ARGUMENT(type, name) , words->name
#define PROBE(group, name, fields)                                     \
	case QUIRE_TRACE_##name: {                                     \
		const struct words_##name *words = (const void *)args; \
                                                                       \
		STAP_PROBEV(quire, name fields);                       \
		break;                                                 \
	}

/* A nop for each event, with a note that tells tools where it is and where its arguments are. */
static void pass_probe(enum quire_trace_event event, const u64 *args)
{
	switch (event) {
		QUIRE_TRACE_EVENTS(PROBE, ARGUMENT)
	case QUIRE_TRACE_COUNT:
		break;
	}
}
#else
static void pass_probe(enum quire_trace_event event, const u64 *args)
{
	(void)event;
	(void)args;
}
#endif

void quire_trace_emit(enum quire_trace_event event, const uint64_t *args)
{
	quire_trace_fn record = __atomic_load_n(&trace_record, __ATOMIC_RELAXED);

	pass_probe(event, args);
	if (record)
		record(event, args);
}
