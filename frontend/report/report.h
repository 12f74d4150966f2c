/* What a process of `quire run` leaves in the run's directory. */
#ifndef QUIRE_FRONTEND_REPORT_REPORT_H
#define QUIRE_FRONTEND_REPORT_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include <quire/trace.h>

struct vm;

/*
 * Files in the run's directory, all mapped, so that nothing is lost when a process is killed:
 *   report     made by the command: what is wanted
 *   stats.PID  statistics of that process as JSON, brought up to date when asked; with --stats each
 *              second, too, and stats.PID.N once the process has become another program
 *   trace.PID  the newest trace events of its threads
 * `quire stat` asks from outside of the run: it finds the directory, which its user alone may
 * enter, and needs no descriptor of a process. Between questions a thread sleeps; nothing is
 * counted. Room is asked for before it is written to: a full file system is no reason to die by
 * SIGBUS.
 */
#define REPORT_CONTROL "report"
#define REPORT_STATS "stats."
#define REPORT_TRACE "trace."

enum report_flags { REPORT_WANTS_STATS = 1u << 0, REPORT_WANTS_TRACE = 1u << 1 };

struct report_control {
	uint32_t flags;
	uint32_t clock;	       /* enum report_clock: of trace events */
	uint32_t trace_events; /* that each thread keeps: a power of two, from 2 * REPORT_ROOM on */
	uint64_t trace_mask;   /* by enum quire_trace_event: which are recorded */
	uint32_t request;      /* grows with each wish for fresh statistics; a futex */
	/* CLOCK_MONOTONIC in ns: so long are events and exits counted, and texts have maps. */
	uint64_t count_until, map_until;
	uint64_t map_start, map_end; /* gfns that the map shows */
	uint64_t map_cells;
};

/*
 * The text of one process, members of a JSON object: complete in texts[current]. It has room for
 * the map of a VM with all the slots that KVM allows (65,528, some 215 bytes each). The process
 * opens what is behind the first part when a map needs it: a client's mlockall() makes every page
 * that can be written.
 */
#define REPORT_TEXT_BYTES (16u << 20)
#define REPORT_FIRST_BYTES (2u << 20)
#define REPORT_RETIRED UINT32_MAX
struct report_stats {
	uint32_t current;
	uint32_t snapshots; /* begun; a text that was copied while it stood still is whole */
	uint32_t answered;  /* the request that the text answers, or RETIRED: there is no more */
	uint32_t size_bytes[2];
	uint64_t rest_ns; /* a command that asks again and again leaves so long between */
	char command[16];
	_Alignas(4096) char texts[]; /* two of REPORT_TEXT_BYTES, or of REPORT_FIRST_BYTES */
};

static inline size_t report_stats_bytes(uint32_t text_bytes)
{
	return sizeof(struct report_stats) + 2 * (size_t)text_bytes;
}

/* How long the texts of a file may be, by its size: a limit on files makes them short. 0: it is
 * not whole. */
static inline uint32_t report_text_bytes(size_t file_bytes)
{
	if (file_bytes == report_stats_bytes(REPORT_TEXT_BYTES))
		return REPORT_TEXT_BYTES;
	return file_bytes == report_stats_bytes(REPORT_FIRST_BYTES) ? REPORT_FIRST_BYTES : 0;
}

/* Of trace events. The command asks for the TSC where all processors count the same. */
enum report_clock { REPORT_CLOCK_MONOTONIC, REPORT_CLOCK_TSC };

struct report_event {
	uint64_t sequence; /* index + 1 once the rest is written */
	uint64_t time;	   /* by the clock of the run: ns, or ticks */
	uint32_t tid;
	uint16_t cpu;
	uint16_t event; /* enum quire_trace_event */
	uint64_t args[QUIRE_TRACE_FIELDS_MAX];
};

/*
 * Texts that are made again and again take a process at most one part in so many of a processor's
 * time: with many VMs, slots or leaves they are rarer.
 */
#define REPORT_REST 20u

/* Of a map that a dump has. */
#define REPORT_MAP_CELLS 1024u

/* What `quire run` asks for unless told otherwise. */
#define REPORT_EVENTS (1u << 16)
/* Events that room is made for at once, while those before them are recorded. */
#define REPORT_ROOM 1024u
/* Threads that have a ring each; more of them share the last. A limit on files makes them fewer,
 * down to one ring, each time half. */
#define REPORT_RINGS 32u
struct report_ring {
	_Alignas(64) uint64_t next; /* events written ever; the newest are there */
};

/* Behind it are the rings' events, from the next page on. */
struct report_trace {
	uint32_t pid;
	uint32_t is_cut; /* there was no room for more */
	uint32_t ring_count;
	char command[16];
	struct report_ring rings[REPORT_RINGS];
};
#define REPORT_TRACE_HEAD 4096u
_Static_assert(sizeof(struct report_trace) <= REPORT_TRACE_HEAD, "the rings begin behind it");
_Static_assert(2 * REPORT_ROOM * sizeof(struct report_event) % 4096 == 0, "rings are whole pages");
_Static_assert(QUIRE_TRACE_COUNT <= 64, "one bit an event");

/* Of a trace file, whose rings have @events each. */
static inline uint64_t report_trace_bytes(uint32_t rings, uint32_t events)
{
	return REPORT_TRACE_HEAD + (uint64_t)rings * events * sizeof(struct report_event);
}

/* The rings of a trace file, by its size. 0: it is not whole. */
static inline uint32_t report_trace_rings(size_t file_bytes, uint32_t events)
{
	uint32_t rings = REPORT_RINGS;

	while (rings && report_trace_bytes(rings, events) != file_bytes)
		rings /= 2;
	return rings;
}

static inline struct report_event *report_ring_events(const struct report_trace *trace,
						      uint32_t ring, uint32_t events)
{
	return (struct report_event *)((uintptr_t)trace + REPORT_TRACE_HEAD) +
	       (uint64_t)ring * events;
}

/* The run's directory, or NULL. Once, when the library is loaded; makes plain file calls. */
void report_attach(const char *directory);
/*
 * This process is about to have a VM: begin what is wanted, with a thread. Inside a client call,
 * with no lock held.
 */
void report_start(void);
enum report_end { REPORT_PROCESS_ENDS, REPORT_PROGRAM_ENDS };
/*
 * The process is about to end without its destructors, or to become another program: have the last
 * figures written, if they are wanted. Waits a moment, takes no lock; may be called after vfork().
 */
void report_last(enum report_end end);
/* The VM's statistics from its birth to its end. Inside a client call, no lock held. */
void report_vm_created(struct vm *vm);
void report_vm_ended(struct vm *vm);

#endif
