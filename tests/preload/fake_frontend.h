/* The commands of the fake frontend. */
#ifndef QUIRE_TESTS_PRELOAD_FAKE_FRONTEND_H
#define QUIRE_TESTS_PRELOAD_FAKE_FRONTEND_H

#include <stdint.h>

/* Of KVM's type: so they reach us through the machine's own node, too. */
enum fake_command {
	FAKE_CREATE = 0xaec1,	 /* a file of so many bytes */
	FAKE_CREATE_MEMORY,	 /* the same, mapped by us too */
	FAKE_CREATE_DEAD_MEMORY, /* maps, and raises SIGBUS */
	FAKE_CREATE_STATS,	 /* reads as "0123456789" */
	FAKE_COUNTS,		 /* struct fake_counts */
	FAKE_RUN,		 /* struct fake_run: ends with -EINTR, or -EFAULT */
	FAKE_WATCH,		 /* register a VM for memory events */
	FAKE_UNWATCH,
	FAKE_PEEK,	  /* the first byte of our own mapping */
	FAKE_SPLIT,	  /* the tunable eager_page_split */
	FAKE_CREATE_SLOW, /* of no bytes; its release takes so many microseconds, and 200 */
	FAKE_CREATE_HELD, /* the same; its release ends after FAKE_LET_GO */
	FAKE_LET_GO,
};

struct fake_counts {
	uint64_t slow_starts, releases, begins, ends, last_start, last_end, losses, last_lost;
	uint64_t runs; /* of FAKE_RUN that have begun: a signal ends it from then on */
};

struct fake_run {
	uint64_t mask; /* as the kernel's sigset */
	uint32_t has_mask;
	uint32_t sleeps; /* else it spins */
	uint64_t touch;	 /* an address to read again and again */
};

#endif
