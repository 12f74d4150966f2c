/* The parts of the memory model: what threads know, stores that may be seen, and plain accesses. */
#ifndef QUIRE_HOSTS_SIM_ORDER_MODEL_H
#define QUIRE_HOSTS_SIM_ORDER_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "hosts/sim/order.h"
#include "hosts/sim/sched.h"
#include "src/base/platform.h"

/* One access: where it goes, and where in the code it stands. */
struct order_access {
	void *to;
	uint32_t size_bytes; /* 1, 2, 4 or 8 */
	uintptr_t site;
	bool acquires, releases, is_full;
	bool is_write, is_plain;
};

/*
 * What each virtual thread knows: of thread T, all that it did up to its own time known.of[T]. Time
 * 0 is before the run, which all know of.
 */
struct order_clock {
	uint32_t of[ORDER_THREADS_MAX];
};

/*
 * What comes before a thread's next access, and what that access must not see older stores than.
 * Two fences order the atomic accesses around them alone: @seen has what they add, for it orders
 * no plain access.
 */
struct order_view {
	struct order_clock known, seen; /* @seen has all of @known */
};

struct order_thread {
	struct order_view now;
	struct order_view fenced;   /* what its relaxed stores release: as of its last fence */
	struct order_view acquired; /* what its relaxed loads saw, for its next fence */
};

/* Each access of the library looks here, so that inline functions do; order.c alone writes it. */
extern struct order_model {
	bool runs; /* within sched_execute(), and it is enabled */
	struct order_thread threads[ORDER_THREADS_MAX];
} order_model;

/* Is there a run, and is the model on? Otherwise memory alone decides. */
static inline bool order_is_on(void)
{
	return order_model.runs && !base_sched_paused;
}

/* When the running thread's next access takes place. */
static inline uint32_t order_now(void)
{
	return order_model.threads[sched_current()].now.known.of[sched_current()] + 1;
}

/* Does the running thread know of what @thread did at @time? */
static inline bool order_knows(uint32_t thread, uint32_t time)
{
	return thread == sched_current() ||
	       time <= order_model.threads[sched_current()].now.known.of[thread];
}

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
 * Numbers for the addresses of a run, in the order in which they are met: what is kept of them lies
 * side by side, and stays in the processor's cache from run to run.
 */
#define ORDER_ADDRESSES_MAX 32768u
#define ORDER_SLOTS (2 * ORDER_ADDRESSES_MAX) /* a power of two */
#define ORDER_RECENT 4096u

struct order_index {
	uint32_t count; /* 0: empty */
	struct {
		uintptr_t address;
		uint32_t slot;
	} known[ORDER_ADDRESSES_MAX];
	/* By hash: the number of an address that has this slot; else anything, and the slot is
	 * free. */
	uint32_t slots[ORDER_SLOTS];
	/* By the address's low bits, a number that was asked for lately, or anything. */
	uint32_t recent[ORDER_RECENT];
};

uint32_t order_index_find(struct order_index *index, uintptr_t address, bool *is_new);

/* The number of @address. *@is_new: it had none. Where there are too many all lose theirs. */
static inline uint32_t order_index_of(struct order_index *index, uintptr_t address, bool *is_new)
{
	uint32_t *recent = &index->recent[(address ^ address >> 3) % ORDER_RECENT];

	*is_new = false;
	if (*recent >= index->count || index->known[*recent].address != address)
		*recent = order_index_find(index, address, is_new);
	return *recent;
}

/* Races. Each access of a run comes by here; one that races ends the run with a report. */
void order_race_start(void);
void order_race_check(const struct order_access *access);
/* The same for a plain access, which most of them are. */
void order_race_check_plain(const void *to, uint32_t size_bytes, bool is_write, uintptr_t site);
void order_race_forget(uintptr_t start, uint64_t size_bytes);
void order_race_end(void);

#endif
