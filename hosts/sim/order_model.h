/* The parts of the memory model: what threads know, stores that may be seen, and plain accesses. */
#ifndef QUIRE_HOSTS_SIM_ORDER_MODEL_H
#define QUIRE_HOSTS_SIM_ORDER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "hosts/sim/order.h"

/* One access: where it goes, and where in the code it stands. */
struct order_access {
	void *to;
	uint32_t size_bytes; /* 1, 2, 4 or 8 */
	uintptr_t site;
	bool acquires, releases, is_full;
	bool is_write, is_plain;
};

/* Is there a run, and is the model on? Otherwise memory alone decides. */
bool order_is_on(void);
/* The access without what order_weaken() takes from it. Its site is on the list from now on. */
struct order_access order_noted(struct order_access access, enum order_kind kind);
/* The value that the load sees. */
uint64_t order_load(const struct order_access *access);
/* The caller stores @value in memory next. */
void order_store(const struct order_access *access, uint64_t value);
void order_rmw(const struct order_access *access, uint64_t value);
/* A compare-exchange that found another value: a load of the newest store. */
void order_rmw_failed(const struct order_access *access);
void order_fence(uintptr_t site);

/*
 * What each virtual thread knows: of thread T, all that it did up to its own time known.of[T]. Time
 * 0 is before the run, which all know of.
 */
struct order_clock {
	uint32_t of[ORDER_THREADS_MAX];
};

/*
 * Numbers for the addresses of a run, in the order in which they are met: what is kept of them lies
 * side by side, and stays in the processor's cache from run to run.
 */
#define ORDER_ADDRESSES_MAX 32768u
#define ORDER_SLOTS (2 * ORDER_ADDRESSES_MAX) /* a power of two */

struct order_index {
	uint32_t count; /* 0: empty */
	struct {
		uintptr_t address;
		uint32_t slot;
	} known[ORDER_ADDRESSES_MAX];
	/* By hash: the number of an address that has this slot; else anything, and the slot is
	 * free. */
	uint32_t slots[ORDER_SLOTS];
};

/* The number of @address. *@is_new: it had none. Where there are too many all lose theirs. */
uint32_t order_index_of(struct order_index *index, uintptr_t address, bool *is_new);

/* Does the running thread know of what @thread did at @time? */
bool order_knows(uint32_t thread, uint32_t time);

/* Races. Each access of a run comes by here; one that races ends the run with a report. */
void order_race_start(void);
void order_race_check(const struct order_access *access);
void order_race_forget(uintptr_t start, uint64_t size_bytes);

#endif
