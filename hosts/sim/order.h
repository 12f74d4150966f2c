/* Memory order under the scheduler: what C11 lets a load see, and data races. */
#ifndef QUIRE_HOSTS_SIM_ORDER_H
#define QUIRE_HOSTS_SIM_ORDER_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A program that was compiled with -fsanitize=thread calls a function at each access to memory;
 * here are those functions (hosts/sim/tsan.c), in the place of ThreadSanitizer's. In a run of the
 * scheduler they keep, for each atomic location, the last few stores, and for each virtual thread,
 * what it knows of the others (a vector clock).
 *
 *   load      any store that is not older than one the thread knows of, or has seen there; where
 *             there are several, the plan of the run picks (hosts/sim/sched.h)
 *   acquire   learns what the writer of that store knew when it released it
 *   fence     sees what every fence before it saw, and leaves what it sees to those after it: for
 *             atomic loads alone, so plain accesses between fences race
 *   RMW       acts on the newest store; sequentially consistent, it is a fence, too, which is what
 *             src/base/atomic.h promises
 *
 * A plain access that races with a store that its thread does not know of, or a store with such an
 * access, is a data race: reported once, and the run ends. Two things are stricter here than in
 * C11: the stores of a location have the order in which they are executed, and a fence that comes
 * after another one sees all that it saw. So what is found is real, and not all that is real is
 * found.
 *
 * The first hides loads that are done after a later store of their own thread (load buffering). A
 * test that wants to know of them says which words another one guards, with order_guard(): no load
 * of such a word is done too late exactly where its accesses happen one after the other.
 */
#define ORDER_THREADS_MAX 8u

/* What happened at a site, which is an address in the program's code. */
enum order_kind { ORDER_ACQUIRE, ORDER_RELEASE, ORDER_RMW, ORDER_FENCE };

struct order_site {
	uintptr_t at; /* 0: none */
	enum order_kind kind;
	bool is_weak;
};

/* The two accesses of a data race, as addresses of code. */
struct order_race {
	uintptr_t site, other_site;
	uint32_t other_thread;
	uint32_t other_time; /* order_time() of its thread then */
};

/* On or off for the runs to come; off at first. What was done before a run all its threads know of.
 */
void order_enable(bool is_on);
/* Of the last run; NULL: none was found. */
const struct order_race *order_race_last(void);
/*
 * Another word orders all accesses to these bytes, which are atomic for another reason: a relaxed
 * one races here as a plain one does. Until the end of the next run, for one range at a time.
 */
void order_guard(const void *start, uint64_t size_bytes);
/* Of the running thread: how many atomic accesses it has made, and one. */
uint32_t order_time(void);
/* Table of the sites with an order that have run since the start, in no order; some are none. */
const struct order_site *order_sites(uint32_t *count);
/* Those sites on the standard output, a line each: where, from the program's start, and the kind.
 */
void order_print_sites(void);
/* The address of the code at @offset from the program's start. */
uintptr_t order_code(uint64_t offset);
/* The order at this site is relaxed from now on, or again what it was; a relaxed fence does
 * nothing. */
void order_weaken(uintptr_t site, bool is_weak);

#endif
