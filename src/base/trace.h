/* Trace points: the library's own, and those of what stands below it in this tree. */
#ifndef QUIRE_BASE_TRACE_H
#define QUIRE_BASE_TRACE_H

#include <quire/trace.h>

/* The listeners to events. A trace point looks at both halves at once. */
union trace_listeners {
	struct {
		uint16_t tracers;   /* how many tools wait at probes (USDT), as they count it */
		uint16_t functions; /* 1: quire_trace_install() gave one */
	};
	uint32_t any; /* 0: none */
};

/* For quire_trace_is_on() alone; hidden, so that it costs no indirection. */
extern union trace_listeners quire_trace_listeners __attribute__((visibility("hidden")));

/* Pass the event's probe, and record it if tracing is still on. */
__attribute__((cold)) void quire_trace_emit(enum quire_trace_event event, const uint64_t *args);

/* NULL: off. For QUIRE_TIMED() alone. */
extern quire_timed_fn quire_trace_timed __attribute__((visibility("hidden")));

#ifdef QUIRE_NO_TRACE
#define QUIRE_TIMED(what, edge, value) ((void)(value))
/* Without trace points: to measure what they cost (tools/phases.py --trace). */
#define QUIRE_TRACE(name, ...) ((void)(const uint64_t[]){__VA_ARGS__})

static inline int quire_trace_is_on(void)
{
	return 0;
}
#else
/* While tracing is off this is a compare with memory and a branch. */
static inline int quire_trace_is_on(void)
{
	return __builtin_expect(__atomic_load_n(&quire_trace_listeners.any, __ATOMIC_RELAXED) != 0,
				0);
}

/* An edge of what takes time. @value is evaluated only while @record wants it. */
#define QUIRE_TIMED(what, edge, value)                                                         \
	do {                                                                                   \
		quire_timed_fn record = __atomic_load_n(&quire_trace_timed, __ATOMIC_RELAXED); \
                                                                                               \
		if (__builtin_expect(record != NULL, 0))                                       \
			record(QUIRE_TIMED_##what, QUIRE_TIMED_##edge, value);                 \
	} while (0)

/* kvm_mmu_spte_requested's access where nothing limits it: read, write, user, execute. */
#define TRACE_ACCESS_ALL 0xfu

/* An event, with its fields as numbers. They are evaluated only while tracing is on. */
#define QUIRE_TRACE(name, ...)                               \
	do {                                                 \
		if (quire_trace_is_on())                     \
			QUIRE_TRACE_SEEN(name, __VA_ARGS__); \
	} while (0)
#endif

/* The same where the caller has just found tracing on. */
#define QUIRE_TRACE_SEEN(name, ...) \
	quire_trace_emit(QUIRE_TRACE_##name, (const uint64_t[]){__VA_ARGS__})

#endif
