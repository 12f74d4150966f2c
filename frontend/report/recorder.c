/*
 * Trace events of this process, into rings of a mapped file: one a thread.
 *
 * A thread takes a ring with its first event and keeps it. So no two write to one cache line, and a
 * thread with few events keeps them beside one with many. Threads beyond the number of rings share
 * the last one, for which slots are taken by counting; so is a ring that a signal handler's event
 * interrupts.
 */
#include "frontend/report/recorder.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "frontend/report/room.h"
#include "hosts/process/process.h"

#define NS_PER_S 1000000000u

static const struct report_control *control;
static struct report_trace *trace;
static uint32_t rings;
static uint32_t ring_events; /* of each ring: a power of two */
static void (*when_full)(void);

/* The running thread's; NULL: none yet. */
static _Thread_local struct {
	struct report_ring *ring;
	struct report_event *events;
	uint32_t tid;
	bool is_shared;
} mine __attribute__((tls_model("initial-exec")));

/* With as many rings as a limit on files allows. */
static struct report_trace *map_file(const char *path, uint32_t events)
{
	struct report_trace *mapped = NULL;

	for (uint32_t count = REPORT_RINGS; count && !mapped; count /= 2) {
		int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

		if (fd < 0)
			return NULL;
		rings = count;
		mapped = room_map(path, fd, report_trace_bytes(count, events), sizeof(*mapped));
	}
	return mapped;
}

int recorder_start(const char *directory, const struct report_control *run, void (*on_full)(void))
{
	char path[4096];

	/* One that this process had before it became another program goes on. */
	snprintf(path, sizeof(path), "%s/" REPORT_TRACE "%d", directory, (int)getpid());
	trace = map_file(path, run->trace_events);
	if (!trace)
		return -1;
	control = run;
	ring_events = run->trace_events;
	when_full = on_full;
	trace->pid = (uint32_t)getpid();
	prctl(PR_GET_NAME, trace->command);
	return 0;
}

static void be_full(void)
{
	trace->is_cut = 1;
	when_full();
}

/* False: there is no room for its first events. */
static bool take_ring(void)
{
	uint32_t taken = __atomic_fetch_add(&trace->ring_count, 1, __ATOMIC_RELAXED);
	uint32_t which = taken < rings ? taken : rings - 1;
	struct report_event *events = report_ring_events(trace, which, ring_events);

	if (room_open(events, ring_events * sizeof(*events)) ||
	    room_make(events, REPORT_ROOM * sizeof(*events))) {
		be_full();
		return false;
	}
	mine.events = events;
	mine.tid = process_thread_number();
	mine.is_shared = which == rings - 1;
	mine.ring = &trace->rings[which];
	return true;
}

static uint64_t clock_now(void)
{
	struct timespec now;

	if (control->clock == REPORT_CLOCK_TSC)
		return __builtin_ia32_rdtsc();
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/*
 * The number of the ring's next event. The thread's own ring takes one instruction without a lock,
 * which a signal handler comes before or after; a locked one would wait for all earlier stores.
 */
static uint64_t take_index(void)
{
	uint64_t index = 1;

	if (mine.is_shared)
		return __atomic_fetch_add(&mine.ring->next, 1, __ATOMIC_RELAXED);
	__asm__ volatile("xaddq %0, %1" : "+r"(index), "+m"(mine.ring->next) : : "memory");
	return index;
}

/* A reader sees by the sequence whether a slot is whole. */
void recorder_record(enum quire_trace_event event, const uint64_t *args)
{
#define FIELD_COUNT(group, name, fields) (0 fields),
	static const uint8_t field_counts[] = {QUIRE_TRACE_EVENTS(FIELD_COUNT, QUIRE_TRACE_FIELD)};
#undef FIELD_COUNT
	struct report_event *slot;
	uint64_t index;

	if (!(control->trace_mask >> event & 1) || (!mine.ring && !take_ring()))
		return;
	index = take_index();
	slot = &mine.events[index & (ring_events - 1)];
	if (index % REPORT_ROOM == 0 && index + REPORT_ROOM < ring_events &&
	    room_make(slot + REPORT_ROOM, REPORT_ROOM * sizeof(*slot)))
		be_full();
	/* The next slots come into the cache meanwhile. */
	__builtin_prefetch(slot + 2, 1);
	__builtin_prefetch((char *)(slot + 2) + 64, 1);
	__atomic_store_n(&slot->sequence, 0, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	slot->time = clock_now();
	slot->tid = mine.tid;
	slot->cpu = (uint16_t)sched_getcpu();
	slot->event = (uint16_t)event;
	/* No call: the program may have a slow memcpy() of its own, and it would be called. */
	for (uint32_t i = 0; i < field_counts[event]; i++)
		__atomic_store_n(&slot->args[i], args[i], __ATOMIC_RELAXED);
	__atomic_store_n(&slot->sequence, index + 1, __ATOMIC_RELEASE);
}

void recorder_forget_thread(void)
{
	mine.ring = NULL;
}
