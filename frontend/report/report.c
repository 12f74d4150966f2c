/* Statistics and trace of this process, into mapped files of the run's directory. */
#include "frontend/report/report.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <quire/stats.h>

#include "frontend/file/client_call.h"
#include "frontend/file/memory.h"
#include "frontend/object/vcpu.h"
#include "frontend/object/vm.h"
#include "frontend/report/json.h"
#include "frontend/report/recorder.h"
#include "frontend/report/room.h"
#include "frontend/report/stats_file.h"
#include "frontend/report/tally.h"
#include "frontend/report/view.h"
#include "hosts/process/fork.h"
#include "hosts/process/heap.h"
#include "hosts/process/helper.h"
#include "hosts/process/lock.h"
#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"
#include "sanitize/dirty.h"

/* How long the last figures may take. */
#define LAST_TRIES 100u
#define LAST_WAIT_NS 2000000
#define NS_PER_S 1000000000u
/* Of VMs that ended; more of them are counted only. */
#define ENDED_BYTES (512u << 10)
/* Each second's text has a map, too, of a VM with so many leaves at most: some milliseconds. */
#define MAP_LEAVES 1000000u

struct vm_node {
	struct vm *vm;
	struct vm_node *next;
};

static char run_directory[3072];
static struct report_control *control; /* NULL: no run */
static struct report_stats *stats;
static char stats_path[sizeof(run_directory) + 48];
/* Where events go: bits of enum hears, atomic. */
enum hears { HEARS_TRACE = 1u << 0, HEARS_TALLY = 1u << 1 };
static uint32_t hears;
/* Guards what follows. Taken with no other lock, and held over nothing that waits. */
static struct process_lock report_lock;
static pid_t started_by;
static struct vm_node *nodes;
static uint64_t ended_count;
/* Where a text is made before it is copied into the file, and how long it may be. */
static char first_room[REPORT_FIRST_BYTES];
static char *text_room = first_room;
static uint64_t text_bytes = REPORT_FIRST_BYTES;
static uint32_t file_text_bytes; /* of each text of the file */
static bool lacks_room;		 /* of the text that is being made: for a map */

/* How deep a process stands in the whole file, and its VMs, down to which each member has a line.
 */
#define PROCESS_DEPTH 3u
#define VMS_DEPTH (PROCESS_DEPTH + 1)
/* What ends the array of VMs. */
#define END_BYTES 64u
static char ended_room[ENDED_BYTES];
static struct json ended = {
    .start = ended_room,
    .size_bytes = sizeof(ended_room),
    .depth = VMS_DEPTH,
    .lined_depth = VMS_DEPTH,
};

static uint64_t now_ns(void)
{
	struct timespec clock;

	clock_gettime(CLOCK_MONOTONIC, &clock);
	return (uint64_t)clock.tv_sec * NS_PER_S + (uint64_t)clock.tv_nsec;
}

static void print_stat(void *ctx, const char *name, uint64_t value)
{
	json_unsigned(ctx, name, value);
}

static void print_vcpu(struct json *json, struct vcpu *vcpu)
{
	json_object(json, NULL);
	json_unsigned(json, "id", vcpu->id);
	json_object(json, "stats");
	stats_visit_vcpu(vcpu, print_stat, json);
	json_end(json);
	json_end(json);
}

/* Threads that want report_lock while a map is drawn under it. */
static uint32_t hurry;

/* What map of @vm the text is to have. False: none. */
static bool wants_map(const struct vm *vm, struct view_wish *wish)
{
	*wish = (struct view_wish){.end = UINT64_MAX, .cells = REPORT_MAP_CELLS, .hurry = &hurry};
	if (__atomic_load_n(&control->map_until, __ATOMIC_ACQUIRE) > now_ns()) {
		wish->start = __atomic_load_n(&control->map_start, __ATOMIC_RELAXED);
		wish->end = __atomic_load_n(&control->map_end, __ATOMIC_RELAXED);
		wish->cells = (uint32_t)__atomic_load_n(&control->map_cells, __ATOMIC_RELAXED);
		return true;
	}
	return (control->flags & REPORT_WANTS_STATS) &&
	       quire_vm_stat(vm->memory, QUIRE_VM_STAT_pages_4k) <= MAP_LEAVES;
}

/* A map that has no room is left out. */
static void print_map(struct json *json, struct vm *vm)
{
	const struct json before = *json;
	struct view_wish wish;

	if (!wants_map(vm, &wish))
		return;
	view_print(json, vm->memory, &wish);
	if (!json->is_full)
		return;
	*json = before;
	lacks_room = true;
}

enum vm_state { VM_ALIVE, VM_ENDED };

/* A VM goes in whole or not at all: nonzero. */
static int print_vm(struct json *json, struct vm *vm, enum vm_state state)
{
	uint32_t count = atomic_load_explicit(&vm->vcpu_count, memory_order_acquire);
	const struct json before = *json;

	json_object(json, NULL);
	json_string(json, "state", state == VM_ALIVE ? "alive" : "ended");
	json_object(json, "stats");
	stats_visit_vm(vm, print_stat, json);
	json_end(json);
	json_array(json, "vcpus");
	for (uint32_t i = 0; i < count; i++)
		print_vcpu(json, vm->vcpus[i]);
	json_end(json);
	if (state == VM_ALIVE)
		print_map(json, vm);
	json_end(json);
	if (!json->is_full)
		return 0;
	*json = before;
	return -1;
}

/* VMs that had no room; without room for this either, nothing. */
static void print_left_out(struct json *json, uint64_t count)
{
	const struct json before = *json;

	json_object(json, NULL);
	json_string(json, "state", "left out");
	json_unsigned(json, "count", count);
	json_end(json);
	if (json->is_full)
		*json = before;
}

/* The process's whole text. */
static struct json print_process(void)
{
	struct json text = {.start = text_room,
			    .size_bytes = text_bytes - END_BYTES,
			    .depth = PROCESS_DEPTH,
			    .lined_depth = PROCESS_DEPTH};
	uint64_t left_out = ended_count;

	lacks_room = false;
	json_signed(&text, "pid", (int)getpid());
	json_string(&text, "command", stats->command);
	if (__atomic_load_n(&hears, __ATOMIC_RELAXED) & HEARS_TALLY)
		tally_print(&text);
	json_array(&text, "vms");
	text.lined_depth = VMS_DEPTH;
	json_members(&text, ended.start, ended.used_bytes);
	for (struct vm_node *node = nodes; node; node = node->next)
		left_out += print_vm(&text, node->vm, VM_ALIVE) != 0;
	if (left_out)
		print_left_out(&text, left_out);
	text.is_full = false;
	text.size_bytes = text_bytes;
	json_end(&text);
	return text;
}

static char *text_of(uint32_t which)
{
	return stats->texts + (uint64_t)which * file_text_bytes;
}

/* What is behind the first part of each text in the file can be written. 0, or -errno. */
static long open_rest(void)
{
	long error = 0;

	for (uint32_t i = 0; i < 2 && !error; i++)
		error = room_open(text_of(i) + REPORT_FIRST_BYTES,
				  REPORT_TEXT_BYTES - REPORT_FIRST_BYTES);
	return error;
}

/* From now on a text may be as long as the file has room for. False: it may already, or cannot. */
static bool have_all_room(void)
{
	static char *all;

	if (text_bytes == file_text_bytes)
		return false;
	if (!all) {
		long mapped = process_map(REPORT_TEXT_BYTES, PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_ANONYMOUS, -1);

		if (sys_failed(mapped))
			return false;
		all = (char *)mapped;
	}
	if (open_rest())
		return false;
	text_room = all;
	text_bytes = REPORT_TEXT_BYTES;
	return true;
}

/* The process's whole text into the buffer that has no reader. */
static void snapshot_locked(uint32_t request)
{
	uint32_t other = !stats->current;
	struct json text = print_process();

	if (lacks_room && have_all_room())
		text = print_process();
	if (!room_make(text_of(other), text.used_bytes)) {
		__atomic_store_n(&stats->snapshots, stats->snapshots + 1, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_RELEASE);
		memcpy(text_of(other), text.start, text.used_bytes);
		stats->size_bytes[other] = (uint32_t)text.used_bytes;
		__atomic_store_n(&stats->current, other, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&stats->answered, request, __ATOMIC_RELEASE);
}

static void snapshot(void)
{
	uint32_t request = __atomic_load_n(&control->request, __ATOMIC_ACQUIRE);

	process_lock_acquire(&report_lock);
	if (stats && started_by == getpid())
		snapshot_locked(request);
	process_lock_release(&report_lock);
}

static void record_and_count(enum quire_trace_event event, const uint64_t *args)
{
	recorder_record(event, args);
	tally_event(event, args);
}

/* Any thread, any lock: of two changes at once the later one looks again. */
static void hear(uint32_t more, uint32_t less)
{
	static const quire_trace_fn functions[] = {
	    [HEARS_TRACE] = recorder_record,
	    [HEARS_TALLY] = tally_event,
	    [HEARS_TRACE | HEARS_TALLY] = record_and_count,
	};
	uint32_t seen;

	__atomic_fetch_or(&hears, more, __ATOMIC_SEQ_CST);
	__atomic_fetch_and(&hears, ~less, __ATOMIC_SEQ_CST);
	do {
		seen = __atomic_load_n(&hears, __ATOMIC_SEQ_CST);
		quire_trace_install(functions[seen]);
		quire_trace_install_timed(seen & HEARS_TALLY ? tally_timed : NULL);
	} while (seen != __atomic_load_n(&hears, __ATOMIC_SEQ_CST));
}

/*
 * Count events as long as a `quire stat` looks, which may have been killed since. How long that
 * still is in ns; 0: until the next question.
 */
static uint64_t settle_counting(void)
{
	uint64_t until = __atomic_load_n(&control->count_until, __ATOMIC_ACQUIRE);
	bool counts = __atomic_load_n(&hears, __ATOMIC_RELAXED) & HEARS_TALLY;
	uint64_t now = now_ns();

	if (until <= now) {
		if (counts)
			hear(0, HEARS_TALLY);
		return 0;
	}
	if (!counts) {
		tally_begin();
		hear(HEARS_TALLY, 0);
	}
	return until - now;
}

/* How long it is until the next text that no one asks for. */
static uint64_t take_snapshot(void)
{
	uint64_t begun = now_ns(), rest_ns;

	snapshot();
	rest_ns = (now_ns() - begun) * REPORT_REST;
	__atomic_store_n(&stats->rest_ns, rest_ns, __ATOMIC_RELAXED);
	return rest_ns > NS_PER_S ? rest_ns : NS_PER_S;
}

/* Sleeps until a question comes, counting is over, or with --stats until a second is, or more. */
static void *stats_thread(void *argument)
{
	bool always = control->flags & REPORT_WANTS_STATS;
	uint64_t rest_ns = NS_PER_S;

	(void)argument;
	client_call_begin();
	prctl(PR_SET_NAME, "quire-stats");
	for (;;) {
		uint32_t request = __atomic_load_n(&control->request, __ATOMIC_ACQUIRE);
		uint64_t wait_ns = settle_counting();
		struct timespec wait;

		if (always || request != __atomic_load_n(&stats->answered, __ATOMIC_RELAXED))
			rest_ns = take_snapshot();
		if (always && (!wait_ns || wait_ns > rest_ns))
			wait_ns = rest_ns;
		wait.tv_sec = (time_t)(wait_ns / NS_PER_S);
		wait.tv_nsec = (long)(wait_ns % NS_PER_S);
		sys_call(SYS_futex, sys_address(&control->request), FUTEX_WAIT, request,
			 wait_ns ? sys_address(&wait) : 0);
	}
	return NULL;
}

static void stop_trace(void)
{
	hear(0, HEARS_TRACE);
}

static void start_trace(void)
{
	if (!recorder_start(run_directory, control, stop_trace))
		hear(HEARS_TRACE, 0);
}

/*
 * The process's file. With --stats one of its own, for what this process said as another program is
 * to stay.
 */
static int open_stats(void)
{
	int kept = control->flags & REPORT_WANTS_STATS ? O_EXCL : 0;
	int fd = -1;

	for (unsigned int n = 0; n < 1000 && fd < 0; n++) {
		int length = snprintf(stats_path, sizeof(stats_path), "%s/" REPORT_STATS "%d",
				      run_directory, (int)getpid());

		if (n)
			snprintf(stats_path + length, sizeof(stats_path) - (size_t)length, ".%u",
				 n);
		fd = open(stats_path, O_RDWR | O_CREAT | kept | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			break;
	}
	return fd;
}

static struct report_stats *map_stats(uint32_t bytes)
{
	int fd = open_stats();

	file_text_bytes = bytes;
	return fd < 0 ? NULL
		      : room_map(stats_path, fd, report_stats_bytes(bytes),
				 offsetof(struct report_stats, texts));
}

static void start_stats(void)
{
	stats = map_stats(REPORT_TEXT_BYTES);
	if (!stats)
		stats = map_stats(REPORT_FIRST_BYTES);
	if (!stats)
		return;
	for (uint32_t i = 0; i < 2; i++)
		(void)room_open(text_of(i), REPORT_FIRST_BYTES);
	prctl(PR_GET_NAME, stats->command);
	stats->size_bytes[0] = stats->size_bytes[1] = 0;
	text_room = first_room;
	text_bytes = REPORT_FIRST_BYTES;
	/* A question before this is none to this program. */
	__atomic_store_n(&stats->answered, __atomic_load_n(&control->request, __ATOMIC_ACQUIRE),
			 __ATOMIC_RELEASE);
}

/* The child begins anew with its first VM; it has no events before. */
static void fork_child(void)
{
	nodes = NULL;
	ended.used_bytes = 0;
	ended.has_member = false;
	ended_count = 0;
	tally_forget_thread();
	recorder_forget_thread();
	hurry = 0;
	(void)process_lock_start_anew(&report_lock);
}
FORK_CHILD(FORK_REPORT, report_lock, fork_child);

void report_attach(const char *directory)
{
	if (!directory || strlen(directory) >= sizeof(run_directory))
		return;
	strcpy(run_directory, directory);
	control = process_map_shared(directory, REPORT_CONTROL, sizeof(*control));
}

void report_start(void)
{
	bool first;

	if (!control)
		return;
	process_lock_acquire(&report_lock);
	first = started_by != getpid();
	started_by = getpid();
	if (first && (control->flags & REPORT_WANTS_TRACE))
		start_trace();
	if (first)
		start_stats();
	/* Before the first event. */
	if (first && stats)
		(void)settle_counting();
	process_lock_release(&report_lock);
	if (first && stats)
		(void)helper_start(NULL, stats_thread, NULL);
}

/* For the list: a map that is being drawn is cut short. */
static void list_acquire(void)
{
	__atomic_fetch_add(&hurry, 1, __ATOMIC_RELAXED);
	process_lock_acquire(&report_lock);
	__atomic_fetch_sub(&hurry, 1, __ATOMIC_RELAXED);
}

void report_vm_created(struct vm *vm)
{
	struct vm_node *node;

	if (!stats)
		return;
	node = process_heap_alloc(sizeof(*node));
	list_acquire();
	if (node) {
		*node = (struct vm_node){.vm = vm, .next = nodes};
		nodes = node;
	} else {
		ended_count++;
	}
	process_lock_release(&report_lock);
}

void report_vm_ended(struct vm *vm)
{
	struct vm_node **link, *node;

	if (!stats)
		return;
	list_acquire();
	for (link = &nodes; *link && (*link)->vm != vm; link = &(*link)->next)
		;
	node = *link;
	if (node) {
		*link = node->next;
		ended_count += print_vm(&ended, vm, VM_ENDED) != 0;
	}
	process_lock_release(&report_lock);
	process_heap_free(node);
}

/* Past the client's filters, which may allow neither this nor an unlink(). */
static bool is_starter(void)
{
	return started_by == (pid_t)sys_call(SYS_getpid, 0);
}

/* Without --stats the file goes with the process. */
static void remove_stats(void)
{
	if (is_starter() && !(control->flags & REPORT_WANTS_STATS))
		sys_call(SYS_unlink, sys_address(stats_path));
}

/* The process ends in order: the last figures. */
__attribute__((destructor)) static void library_unloaded(void)
{
	client_call_begin();
	if (stats && (control->flags & REPORT_WANTS_STATS))
		snapshot();
	else if (stats)
		remove_stats();
	client_call_end();
}

/* Have the thread that writes statistics answer once more. */
static void ask_last(void)
{
	const struct timespec moment = {.tv_nsec = LAST_WAIT_NS};
	uint32_t request = __atomic_add_fetch(&control->request, 1, __ATOMIC_RELEASE);

	sys_call(SYS_futex, sys_address(&control->request), FUTEX_WAKE, INT32_MAX);
	for (unsigned int i = 0; i < LAST_TRIES; i++) {
		uint32_t answered = __atomic_load_n(&stats->answered, __ATOMIC_ACQUIRE);

		if ((int32_t)(answered - request) >= 0)
			break;
		nanosleep(&moment, NULL);
	}
}

void report_last(enum report_end end)
{
	client_call_begin();
	sanitize_log_end_all();
	client_call_end();
	if (!stats || !is_starter())
		return;
	client_call_begin();
	if (control->flags & REPORT_WANTS_STATS)
		ask_last();
	else if (end == REPORT_PROCESS_ENDS)
		remove_stats();
	/* Should it live on, the next snapshot takes this back. */
	__atomic_store_n(&stats->answered, REPORT_RETIRED, __ATOMIC_RELEASE);
	client_call_end();
}
