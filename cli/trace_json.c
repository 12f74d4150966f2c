/*
 * A trace as chrome://tracing and Perfetto read it (Trace Event Format): each event as an instant,
 * and what a timeline shows better: slices of guest and of what followed each exit, counters of
 * mapped pages and of dirty rings, names of threads, and that events are lost.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "cli/trace.h"
#include "cli/trace_event.h"
#include "frontend/report/json.h"

/*
 * Of an entry, in both formats that a VM of the front-end has. An entry for memory that is not
 * there lacks the first in EPT's format, and has a bit above every address in NPT's.
 */
#define ENTRY_PRESENT 0x1u
#define ENTRY_WRITABLE 0x2u
#define ENTRY_MMIO (UINT64_C(1) << 51)
#define ENTRY_LEAF 0x80u
#define LEVELS 3u
#define LEVEL_BITS 9

/* A counter changes with nearly each event: one value in so long is enough for a line. */
#define COUNTER_STEP_NS 100000

/* A thread that runs a vCPU. */
struct runner {
	uint32_t tid, vcpu_id;
	uint64_t since_ns;    /* it is in the guest, or out of it */
	uint64_t exit_reason; /* out of the guest: why */
	bool is_in_guest;
};

struct process {
	uint32_t pid;
	int64_t pages[LEVELS + 1];
	int64_t writable; /* of them, in pages of 4K */
	uint64_t told_ns;
};

struct timeline {
	struct json json;
	struct runner *runners;
	struct process *processes;
	size_t runner_count, process_count, room;
};

static void put_time(struct json *json, const char *key, uint64_t ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRIu64 ".%03" PRIu64, ns / 1000, ns % 1000);
	json_number(json, key, text);
}

/* Begins an event's object; the caller adds what its phase wants, and ends it. */
static void begin(struct json *json, const char *name, const char *group, const char *phase,
		  uint64_t ns)
{
	json_object(json, NULL);
	json_string(json, "name", name);
	json_string(json, "cat", group);
	json_string(json, "ph", phase);
	put_time(json, "ts", ns);
}

static void put_thread(struct json *json, uint32_t pid, uint32_t tid)
{
	json_unsigned(json, "pid", pid);
	json_unsigned(json, "tid", tid);
}

static void put_instant(struct json *json, const struct trace_line *line)
{
	const struct report_event *event = &line->event;
	const struct trace_event *shape = &trace_events[event->event];
	char text[32];

	begin(json, shape->name, shape->group, "i", event->time);
	json_string(json, "s", "t");
	put_thread(json, line->pid, event->tid);
	json_object(json, "args");
	for (unsigned int i = 0; i < shape->field_count; i++) {
		const struct trace_field *field = &shape->fields[i];

		snprintf(text, sizeof(text), "0x%" PRIx64, event->args[i]);
		if (field->is_hex)
			json_string(json, field->name, text);
		else if (field->is_signed)
			json_signed(json, field->name, (int64_t)event->args[i]);
		else
			json_unsigned(json, field->name, event->args[i]);
	}
	json_end(json);
	json_end(json);
}

static void put_slice(struct json *json, const struct trace_line *line, const struct runner *runner)
{
	uint64_t now_ns = line->event.time;

	begin(json, runner->is_in_guest ? "guest" : trace_exit_name(runner->exit_reason), "vcpu",
	      "X", runner->since_ns);
	put_time(json, "dur", now_ns - runner->since_ns);
	put_thread(json, line->pid, line->event.tid);
	json_object(json, "args");
	json_unsigned(json, "vcpu_id", runner->vcpu_id);
	json_end(json);
	json_end(json);
}

static void put_name(struct json *json, const char *what, uint32_t pid, uint32_t tid,
		     const char *name)
{
	json_object(json, NULL);
	json_string(json, "name", what);
	json_string(json, "ph", "M");
	put_thread(json, pid, tid);
	json_object(json, "args");
	json_string(json, "name", name);
	json_end(json);
	json_end(json);
}

/* The runner of the line's thread, made with its first entry. NULL: there is none. */
static struct runner *find_runner(struct timeline *timeline, const struct trace_line *line,
				  uint32_t vcpu_id)
{
	struct runner *runner = timeline->runners;
	char name[24];

	for (; runner < timeline->runners + timeline->runner_count; runner++)
		if (runner->tid == line->event.tid && runner->vcpu_id == vcpu_id)
			return runner;
	if (timeline->runner_count == timeline->room)
		return NULL;
	*runner = (struct runner){.tid = line->event.tid, .vcpu_id = vcpu_id};
	timeline->runner_count++;
	snprintf(name, sizeof(name), "vCPU %u", vcpu_id);
	put_name(&timeline->json, "thread_name", line->pid, runner->tid, name);
	return runner;
}

static void turn(struct timeline *timeline, const struct trace_line *line, bool enters)
{
	const struct report_event *event = &line->event;
	struct runner *runner = find_runner(timeline, line, (uint32_t)event->args[enters ? 0 : 7]);

	if (!runner)
		return;
	if (runner->since_ns && runner->is_in_guest != enters)
		put_slice(&timeline->json, line, runner);
	runner->since_ns = event->time;
	runner->is_in_guest = enters;
	runner->exit_reason = enters ? 0 : event->args[0];
}

static struct process *find_process(struct timeline *timeline, const struct trace_line *line)
{
	struct process *process = timeline->processes;

	for (; process < timeline->processes + timeline->process_count; process++)
		if (process->pid == line->pid)
			return process;
	if (timeline->process_count == timeline->room)
		return NULL;
	*process = (struct process){.pid = line->pid};
	timeline->process_count++;
	put_name(&timeline->json, "process_name", line->pid, line->pid, line->command);
	return process;
}

static void put_pages(struct json *json, struct process *process, uint64_t ns)
{
	static const char *const names[LEVELS + 1] = {"", "4K", "2M", "1G"};

	process->told_ns = ns;
	begin(json, "mapped pages", "mmu", "C", ns);
	json_unsigned(json, "pid", process->pid);
	json_object(json, "args");
	for (uint32_t level = 1; level <= LEVELS; level++)
		json_signed(json, names[level], process->pages[level]);
	json_end(json);
	json_end(json);
	/* A log takes W from what it has told of: what has it again was written since. */
	begin(json, "writable pages (in logged slots: dirty)", "mmu", "C", ns);
	json_unsigned(json, "pid", process->pid);
	json_object(json, "args");
	json_signed(json, "pages", process->writable);
	json_end(json);
	json_end(json);
}

static bool is_leaf(uint64_t entry, uint64_t level)
{
	return (entry & ENTRY_PRESENT) && !(entry & ENTRY_MMIO) &&
	       (level == 1 || (entry & ENTRY_LEAF));
}

static bool is_writable(uint64_t entry, uint64_t level)
{
	return is_leaf(entry, level) && (entry & ENTRY_WRITABLE);
}

/* kvm_tdp_mmu_spte_changed: gfn, old, new, level. */
static void count_pages(struct timeline *timeline, const struct trace_line *line)
{
	const uint64_t *args = line->event.args;
	struct process *process = find_process(timeline, line);
	int change = is_leaf(args[2], args[3]) - is_leaf(args[1], args[3]);
	int rights = is_writable(args[2], args[3]) - is_writable(args[1], args[3]);

	if (!process || !args[3] || args[3] > LEVELS || !(change || rights))
		return;
	process->pages[args[3]] += change;
	process->writable += (int64_t)rights * (INT64_C(1) << (LEVEL_BITS * (args[3] - 1)));
	if (line->event.time - process->told_ns >= COUNTER_STEP_NS)
		put_pages(&timeline->json, process, line->event.time);
}

/* kvm_dirty_ring_push and _reset: vCPU, dirty, reset. */
static void count_ring(struct json *json, const struct trace_line *line)
{
	const uint64_t *args = line->event.args;
	char name[32];

	snprintf(name, sizeof(name), "dirty ring %d", (int)args[0]);
	begin(json, name, "mmu", "C", line->event.time);
	json_unsigned(json, "pid", line->pid);
	json_object(json, "args");
	json_unsigned(json, "used", (uint32_t)(args[1] - args[2]));
	json_end(json);
	json_end(json);
}

static void put_lost(struct json *json, const struct trace *trace)
{
	begin(json, "lost events", "quire", "i", trace->lines[0].event.time);
	json_string(json, "s", "g");
	put_thread(json, trace->lines[0].pid, trace->lines[0].event.tid);
	json_object(json, "args");
	json_unsigned(json, "count", trace->lost);
	json_end(json);
	json_end(json);
}

static void put_line(struct timeline *timeline, const struct trace_line *line)
{
	(void)find_process(timeline, line);
	put_instant(&timeline->json, line);
	switch (line->event.event) {
	case QUIRE_TRACE_kvm_entry:
	case QUIRE_TRACE_kvm_exit:
		turn(timeline, line, line->event.event == QUIRE_TRACE_kvm_entry);
		break;
	case QUIRE_TRACE_kvm_tdp_mmu_spte_changed:
		count_pages(timeline, line);
		break;
	case QUIRE_TRACE_kvm_dirty_ring_push:
	case QUIRE_TRACE_kvm_dirty_ring_reset:
		count_ring(&timeline->json, line);
		break;
	default:
		break;
	}
}

void trace_print_json(const struct trace *trace, FILE *file)
{
	enum { ROOM = 4096 };
	struct timeline timeline = {
	    .json = {.file = file},
	    .runners = calloc(ROOM, sizeof(struct runner)),
	    .processes = calloc(ROOM, sizeof(struct process)),
	};

	timeline.room = timeline.runners && timeline.processes ? ROOM : 0;
	json_object(&timeline.json, NULL);
	json_string(&timeline.json, "displayTimeUnit", "ns");
	json_array(&timeline.json, "traceEvents");
	if (trace->count && trace->lost)
		put_lost(&timeline.json, trace);
	for (size_t i = 0; i < trace->count; i++)
		put_line(&timeline, &trace->lines[i]);
	for (size_t i = 0; i < timeline.process_count; i++)
		put_pages(&timeline.json, &timeline.processes[i],
			  trace->lines[trace->count - 1].event.time);
	json_end(&timeline.json);
	json_end(&timeline.json);
	free(timeline.runners);
	free(timeline.processes);
}
