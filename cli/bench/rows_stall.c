/* What a vCPU waits for after a log has started: its first writes, and the longest of all. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/bench/machine.h"

/* A guest of 8 GiB in huge pages: 2 GiB of memory, shown by four slots. */
#define SLOTS 4u
#define SLOT_BYTES (2 * GIB)
#define BLOCKS (SLOTS * SLOT_BYTES / QUIRE_PAGE_SIZE / QUIRE_TABLE_ENTRIES)
/*
 * The longest that are left out: what interrupts this machine comes within one. In one of 64 the
 * kernel brings a page of the bitmap in besides.
 */
#define LEFT_OUT (BLOCKS / 20)

/* Which thread splits the huge pages, and when. */
enum splitter {
	SPLIT_BY_VCPU,	/* each first write */
	SPLIT_BY_START, /* eager_page_split: the call that starts the log */
	SPLIT_AHEAD,	/* quire_vm_split(), before */
};

struct stall {
	struct machine machine;
	enum splitter splitter;
	double took[BLOCKS];
};

/*
 * A vCPU that stores here and there, at every turn a page of its own choosing, and looks at the
 * time stamp counter in between. A stall is a long gap, less the time in which the thread could
 * have run and the kernel gave its processor to another.
 */
struct runner {
	struct stall *stall;
	pthread_t thread;
	struct quire_stage2 stage2;
	u64 random;
	double ns_per_tick;
	u32 armed, stop; /* by the thread that starts the log */
	u32 runs;
	int failed;
	double longest; /* ns */
};
#define LONG_TICKS 10000u
#define WARM_NS 20000000L
#define WATCH_NS 1000000000L

static void stall_destroy(void *state)
{
	struct stall *stall = state;

	machine_destroy(&stall->machine);
	free(stall);
}

static int set_slots(struct stall *stall, u32 flags)
{
	int error = 0;

	for (u32 slot = 0; slot < SLOTS && !error; slot++)
		error = machine_set_slot(&stall->machine, slot, flags, SLOT_BYTES);
	return error;
}

/* param: an enum splitter. */
static int stall_setup(const struct bench_row *row, void **state)
{
	struct stall *stall = calloc(1, sizeof(*stall));
	int error;

	if (!stall)
		return -ENOMEM;
	stall->splitter = (enum splitter)row->param;
	error = machine_init(&stall->machine, QUIRE_VM_DEFAULT, 1, LEVEL_REAL);
	stall->machine.memory = memory_get(MEMORY_HUGE, SLOT_BYTES);
	stall->machine.npages = SLOT_BYTES / QUIRE_PAGE_SIZE;
	if (!error && !stall->machine.memory)
		error = -ENOMEM;
	if (error)
		stall_destroy(stall);
	else
		*state = stall;
	return error;
}

static int map_huge(struct stall *stall)
{
	struct faults faults = {.npages = BLOCKS * QUIRE_TABLE_ENTRIES,
				.stride = QUIRE_TABLE_ENTRIES,
				.error_code = FAULTS_MISSING};

	if (set_slots(stall, 0))
		return -1;
	machine_zap(&stall->machine);
	if (machine_fault(&stall->machine, 0, &faults) < 0)
		return -1;
	return quire_vm_stat(stall->machine.vm, QUIRE_VM_STAT_pages_2m) == BLOCKS ? 0 : -1;
}

static int split_all(struct stall *stall)
{
	u64 done;

	for (u64 at = 0; at < SLOTS * SLOT_BYTES; at += done)
		if (quire_vm_split(stall->machine.vm, 0, (gpa_t){at}, SLOTS * SLOT_BYTES - at,
				   &done))
			return -1;
	return 0;
}

/* A file of the calling thread's, for delay_ns(). */
static int delay_open(void)
{
	return open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

/* So long the thread has waited for a processor; 0 where the kernel does not count it. */
static double delay_ns(int file)
{
	unsigned long long ran, waited;
	char text[64];
	ssize_t got = pread(file, text, sizeof(text) - 1, 0);

	text[got > 0 ? got : 0] = 0;
	return sscanf(text, "%llu %llu", &ran, &waited) == 2 ? (double)waited : 0;
}

static double wall_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void nap(long ns)
{
	struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &time))
		;
}

static double measure_tick(void)
{
	double start = wall_now();
	u64 ticks = __builtin_ia32_rdtsc();

	nap(WARM_NS);
	return (wall_now() - start) / (double)(__builtin_ia32_rdtsc() - ticks);
}

/* From guest mode back to it: the doorbell's requests, or a fault. */
static int leave_for(struct runner *runner, u64 gfn, u64 error_code)
{
	struct quire_vcpu *vcpu = runner->stall->machine.vcpus[0];
	struct quire_memory_fault exit;
	u64 requests;
	int outcome = 0;

	quire_vcpu_leave(vcpu);
	if (error_code)
		outcome = quire_vcpu_fault(vcpu, (gpa_t){gfn * QUIRE_PAGE_SIZE}, error_code, &exit);
	return outcome < 0 || quire_vcpu_enter(vcpu, &requests, &runner->stage2);
}

static int store_somewhere(struct runner *runner)
{
	struct machine *machine = &runner->stall->machine;
	volatile uint8_t *page;
	u64 gfn;

	runner->random = runner->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	gfn = (runner->random >> 33) % (BLOCKS * QUIRE_TABLE_ENTRIES);
	if (__atomic_load_n(quire_vcpu_doorbell(machine->vcpus[0]), __ATOMIC_RELAXED) &&
	    leave_for(runner, 0, 0))
		return -1;
	while (!machine_may_write(&runner->stage2, (gfn_t){gfn}))
		if (leave_for(runner, gfn, FAULTS_PROTECTED))
			return -1;
	page = machine->memory + gfn % machine->npages * QUIRE_PAGE_SIZE;
	*page = 1;
	return 0;
}

static void *runner_main(void *opaque)
{
	struct runner *runner = opaque;
	u64 before = __builtin_ia32_rdtsc(), now, requests;
	int file = delay_open();
	double delay = delay_ns(file);

	runner->failed =
	    quire_vcpu_enter(runner->stall->machine.vcpus[0], &requests, &runner->stage2);
	__atomic_store_n(&runner->runs, 1, __ATOMIC_RELEASE);
	for (; !runner->failed && !__atomic_load_n(&runner->stop, __ATOMIC_RELAXED); before = now) {
		double gap, delay_before = delay;

		runner->failed = store_somewhere(runner);
		now = __builtin_ia32_rdtsc();
		if (now - before < LONG_TICKS)
			continue;
		delay = delay_ns(file);
		gap = (double)(now - before) * runner->ns_per_tick - (delay - delay_before);
		if (gap > runner->longest && __atomic_load_n(&runner->armed, __ATOMIC_ACQUIRE))
			runner->longest = gap;
		now = __builtin_ia32_rdtsc();
	}
	quire_vcpu_leave(runner->stall->machine.vcpus[0]);
	close(file);
	return NULL;
}

/*
 * The longest gap of a second, in ns, which begins with a log that starts, or without (@flags 0).
 * *@delayed_ns: so long the thread that starts it waited for a processor, and the vCPU for it.
 */
static double longest_gap(struct stall *stall, u32 flags, double *delayed_ns)
{
	struct runner runner = {.stall = stall, .random = 1, .ns_per_tick = measure_tick()};
	int error, file = delay_open();

	if (pthread_create(&runner.thread, NULL, runner_main, &runner)) {
		close(file);
		return -1;
	}
	while (!__atomic_load_n(&runner.runs, __ATOMIC_ACQUIRE))
		nap(1000);
	nap(WARM_NS);
	__atomic_store_n(&runner.armed, 1, __ATOMIC_RELEASE);
	*delayed_ns = delay_ns(file);
	error = flags ? set_slots(stall, flags) : 0;
	*delayed_ns = delay_ns(file) - *delayed_ns;
	nap(WATCH_NS);
	__atomic_store_n(&runner.stop, 1, __ATOMIC_RELAXED);
	pthread_join(runner.thread, NULL);
	close(file);
	return error || runner.failed ? -1 : runner.longest;
}

static int stall_begin(struct stall *stall)
{
	stall->machine.tunables.eager_page_split = stall->splitter == SPLIT_BY_START;
	return map_huge(stall) || (stall->splitter == SPLIT_AHEAD && split_all(stall)) ? -1 : 0;
}

/* Where the thread that starts the log was held up, once more, up to a limit. */
#define TRIES 4u
#define DELAY_NS_MAX 10000

static double stall_longest(void *state)
{
	double delayed_ns = DELAY_NS_MAX, longest = 0;

	for (u32 i = 0; i < TRIES && longest >= 0 && delayed_ns >= DELAY_NS_MAX; i++)
		longest =
		    stall_begin(state) ? -1 : longest_gap(state, QUIRE_SLOT_LOG_DIRTY, &delayed_ns);
	return longest;
}

static double stall_control(void *state)
{
	double delayed_ns;

	return stall_begin(state) ? -1 : longest_gap(state, 0, &delayed_ns);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The longest first write of page @page of a block, but for a twentieth of them. */
static double longest_write(struct stall *stall, u64 page)
{
	for (u64 i = 0; i < BLOCKS; i++) {
		struct faults faults = {.first = i * QUIRE_TABLE_ENTRIES + page,
					.npages = 1,
					.stride = 1,
					.error_code = FAULTS_PROTECTED};

		stall->took[i] = machine_fault(&stall->machine, 0, &faults);
		if (stall->took[i] < 0)
			return -1;
	}
	qsort(stall->took, BLOCKS, sizeof(stall->took[0]), compare);
	return stall->took[BLOCKS - 1 - LEFT_OUT];
}

static double first_write(void *state)
{
	struct stall *stall = state;

	if (stall_begin(stall) || set_slots(stall, QUIRE_SLOT_LOG_DIRTY))
		return -1;
	return longest_write(stall, 0);
}

/* By now all blocks are split. */
static double first_floor(void *state)
{
	return longest_write(state, 1);
}

#define FIRST_ROW(title, splits, highest)                                                      \
	{                                                                                      \
		.name = (title), .floor_text = "the longest first write of a page that is 4K", \
		.setup = stall_setup, .teardown = stall_destroy, .operation = first_write,     \
		.floor = first_floor, .bound = (highest), .operations = 1, .param = (splits),  \
		.memory_bytes = 2 * GIB                                                        \
	}

#define STALL_ROW(title, splits)                                                             \
	{                                                                                    \
		.name = (title), .floor_text = "the longest gap of a second without a log",  \
		.setup = stall_setup, .teardown = stall_destroy, .operation = stall_longest, \
		.floor = stall_control, .operations = 1, .param = (splits), .rounds = 3,     \
		.memory_bytes = 2 * GIB                                                      \
	}

static const struct bench_row rows[] = {
    FIRST_ROW("log_first_write/lazy", SPLIT_BY_VCPU, 0),
    FIRST_ROW("log_first_write/eager", SPLIT_BY_START, 2),
    FIRST_ROW("log_first_write/ahead", SPLIT_AHEAD, 2),
    STALL_ROW("log_stall/lazy", SPLIT_BY_VCPU),
    STALL_ROW("log_stall/eager", SPLIT_BY_START),
    STALL_ROW("log_stall/ahead", SPLIT_AHEAD),
};

const struct bench_list bench_stall = {rows, sizeof(rows) / sizeof(rows[0])};
