/* How often each event happens and how long exits take, counted while a `quire stat` looks. */
#ifndef QUIRE_FRONTEND_REPORT_TALLY_H
#define QUIRE_FRONTEND_REPORT_TALLY_H

#include <quire/trace.h>

struct json;

/*
 * An exit lasts from kvm_exit to the next kvm_entry of the same thread, as `perf kvm stat` has it:
 * what the client does with it counts, too. All threads of the process add to the same numbers.
 */

/* Start from zero. Before events are told; one thread at a time. */
void tally_begin(void);
/* A quire_trace_fn and a quire_timed_fn. Any thread; no lock, never sleeps. */
void tally_event(enum quire_trace_event event, const uint64_t *args);
void tally_timed(enum quire_timed what, enum quire_timed_edge edge, uint64_t value);
/*
 * Members "events", "exits", and of the same kind "faults" (by what came of them), "locks" and
 * "harvests", as far as there are any; each number by itself is right.
 */
void tally_print(struct json *json);
/* In the child of a fork, whose thread has not left a guest of its own. */
void tally_forget_thread(void);

#endif
