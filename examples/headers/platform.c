/* quire/platform.h: how the library's threads wait and wake, here by futexes. */
#include <quire/platform.h>

#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "example.h"

/* A record outlives its thread; a program with few threads may leave them allocated. */
static struct quire_thread *record_of_this_thread(void)
{
	static _Thread_local struct quire_thread *record;

	if (!record) {
		record = aligned_alloc(64, sizeof(*record));
		if (!record)
			abort();
		*record = (struct quire_thread){0};
		quire_thread_register(record);
	}
	return record;
}

static void wait_on(const uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake_up(const uint32_t *word, uint32_t count)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static void relax(unsigned int turn)
{
	if (turn % 64 == 63)
		sched_yield();
}

static void report(const char *text)
{
	fprintf(stderr, "libquire: %s\n", text);
}

const struct quire_platform example_platform = {
    .self = record_of_this_thread,
    .wait = wait_on,
    .wake = wake_up,
    .relax = relax,
    .report = report,
};
