/* Rows of dirty logging on 1 GiB mapped 4K. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench/floor.h"
#include "cli/bench/machine.h"

#define WORDS (GIB_PAGES / 64)
/* A scan of 32 KiB is too short for the clock. */
#define REPEATS_GET 100u

struct log {
	struct machine machine;
	struct floor_tables floor;
	u64 all[WORDS], some[WORDS], none[WORDS], got[WORDS];
};

static void log_destroy(void *state)
{
	struct log *log = state;

	machine_destroy(&log->machine);
	floor_tables_destroy(&log->floor);
	free(log);
}

static void make_words(struct log *log)
{
	u64 random = 1;

	memset(log->all, 0xff, sizeof(log->all));
	for (u64 set = 0; set < GIB_PAGES / 100;) {
		u64 page, bit;

		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		page = (random >> 33) % GIB_PAGES;
		bit = UINT64_C(1) << page % 64;
		set += !(log->some[page / 64] & bit);
		log->some[page / 64] |= bit;
	}
}

/* param: the value of manual protect. */
static int log_setup(const struct bench_row *row, void **state)
{
	struct log *log = calloc(1, sizeof(*log));
	int error;

	if (!log)
		return -ENOMEM;
	make_words(log);
	error = machine_init_1g(&log->machine, MEMORY_SMALL, BENCH_THREADS_MAX, LEVEL_REAL);
	if (!error)
		error = quire_vm_set_manual_protect(log->machine.vm, row->param);
	if (!error)
		error = floor_tables_init(&log->floor);
	if (!error && machine_populate(&log->machine) < 0)
		error = -EIO;
	if (error)
		log_destroy(log);
	else
		*state = log;
	return error;
}

static int log_setup_on(const struct bench_row *row, void **state)
{
	int error = log_setup(row, state);

	if (error)
		return error;
	error = machine_set_flags(&((struct log *)*state)->machine, QUIRE_SLOT_LOG_DIRTY);
	if (error)
		log_destroy(*state);
	return error;
}

/* Write to every page that is protected, and fail when one is not. */
static double redirty(struct log *log)
{
	struct faults faults = {.npages = GIB_PAGES, .stride = 1, .error_code = FAULTS_PROTECTED};

	return machine_fault(&log->machine, 0, &faults);
}

/* The tables are as near as the floor's are, which were filled just before its pass. */
static double log_start(void *state)
{
	struct log *log = state;
	double start;

	if (redirty(log) < 0 || machine_set_flags(&log->machine, 0))
		return -1;
	start = bench_now();
	return machine_set_flags(&log->machine, QUIRE_SLOT_LOG_DIRTY) ? -1 : bench_now() - start;
}

static double start_floor(void *state)
{
	struct log *log = state;

	return floor_clear_pass(&log->floor);
}

static double log_clear(struct log *log, const u64 *words)
{
	double start = bench_now();

	return machine_clear_log(&log->machine, words) ? -1 : bench_now() - start;
}

/* Each clear is of pages that were just written: all are, after a clear of all. */
static int write_all(struct log *log)
{
	return log_clear(log, log->all) < 0 || redirty(log) < 0 ? -1 : 0;
}

static double log_clear_all(void *state)
{
	struct log *log = state;

	return write_all(log) ? -1 : log_clear(log, log->all);
}

static double log_clear_some(void *state)
{
	struct log *log = state;

	return write_all(log) ? -1 : log_clear(log, log->some);
}

/* A vCPU that is in guest mode all the time, and leaves it for a moment when it is asked to. */
struct guest {
	struct quire_vcpu *vcpu;
	pthread_t thread;
	u32 inside, stop;
};

static void *guest_main(void *opaque)
{
	struct guest *guest = opaque;
	const uint64_t *doorbell = quire_vcpu_doorbell(guest->vcpu);
	struct quire_stage2 stage2;
	u64 requests;

	while (!__atomic_load_n(&guest->stop, __ATOMIC_RELAXED)) {
		if (quire_vcpu_enter(guest->vcpu, &requests, &stage2))
			break;
		__atomic_store_n(&guest->inside, 1, __ATOMIC_RELEASE);
		while (!__atomic_load_n(doorbell, __ATOMIC_RELAXED) &&
		       !__atomic_load_n(&guest->stop, __ATOMIC_RELAXED))
			__builtin_ia32_pause();
		quire_vcpu_leave(guest->vcpu);
	}
	__atomic_store_n(&guest->inside, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* log_clear() while another vCPU is in guest mode. */
static double log_clear_busy(struct log *log, const u64 *words)
{
	struct guest guest = {.vcpu = log->machine.vcpus[1]};
	double took;

	if (pthread_create(&guest.thread, NULL, guest_main, &guest))
		return -1;
	while (!__atomic_load_n(&guest.inside, __ATOMIC_ACQUIRE))
		sched_yield();
	took = log_clear(log, words);
	__atomic_store_n(&guest.stop, 1, __ATOMIC_RELAXED);
	pthread_join(guest.thread, NULL);
	return took;
}

static double log_clear_all_busy(void *state)
{
	struct log *log = state;

	return write_all(log) ? -1 : log_clear_busy(log, log->all);
}

static double log_clear_some_busy(void *state)
{
	struct log *log = state;

	return write_all(log) ? -1 : log_clear_busy(log, log->some);
}

static double clear_all_floor(void *state)
{
	struct log *log = state;

	return floor_clear_named(&log->floor, log->all);
}

static double clear_some_floor(void *state)
{
	struct log *log = state;

	return floor_clear_named(&log->floor, log->some);
}

static int copy_words(void *ctx, uint64_t offset_bytes, const void *src, uint64_t size_bytes)
{
	struct log *log = ctx;

	memcpy((uint8_t *)log->got + offset_bytes, src, size_bytes);
	return 0;
}

/* Nothing was written since the last harvest. */
static double log_get(void *state)
{
	struct log *log = state;
	double start = bench_now();

	for (u32 i = 0; i < REPEATS_GET; i++)
		if (quire_vm_get_dirty_log(log->machine.vm, 0, copy_words, log))
			return -1;
	return bench_now() - start;
}

static double get_floor(void *state)
{
	struct log *log = state;
	double sum = 0;

	for (u32 i = 0; i < REPEATS_GET; i++)
		sum += floor_scan(log->none);
	return sum;
}

static double redirty_one(void *state)
{
	struct log *log = state;

	return log_clear(log, log->all) < 0 ? -1 : redirty(log);
}

static double redirty_two(void *state)
{
	struct log *log = state;

	if (log_clear(log, log->all) < 0)
		return -1;
	return machine_fault_parts(&log->machine, FAULTS_PROTECTED);
}

static double redirty_floor(void *state)
{
	struct log *log = state;

	return floor_redirty(&log->floor);
}

static const struct bench_row rows[] = {
    {
	.name = "log_start_4k/1GiB",
	.floor_text = "one bit cleared in every entry of 512 tables, vectorised",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_start,
	.floor = start_floor,
	.bound = 2,
	.operations = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "log_clear/all",
	.floor_text = "the bitmap scanned, one bit cleared in the entries it names",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_clear_all,
	.floor = clear_all_floor,
	.bound = 3,
	.operations = 1,
	.param = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "log_clear/1pct",
	.floor_text = "the bitmap scanned, one bit cleared in the entries it names",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_clear_some,
	.floor = clear_some_floor,
	.bound = 3,
	.operations = 1,
	.param = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "log_clear/all_busy",
	.floor_text = "the bitmap scanned, one bit cleared in the entries it names",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_clear_all_busy,
	.floor = clear_all_floor,
	.bound = 2.5,
	.operations = 1,
	.param = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "log_clear/1pct_busy",
	.floor_text = "the bitmap scanned, one bit cleared in the entries it names",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_clear_some_busy,
	.floor = clear_some_floor,
	.operations = 1,
	.param = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "log_get/clear",
	.floor_text = "a bitmap without a bit scanned",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = log_get,
	.floor = get_floor,
	.bound = 3,
	.operations = REPEATS_GET,
	.memory_bytes = GIB,
    },
    {
	.name = "redirty/1t",
	.floor_text = "one walk and one compare-exchange",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = redirty_one,
	.floor = redirty_floor,
	.bound = 10,
	.operations = GIB_PAGES,
	.param = 1,
	.memory_bytes = GIB,
    },
    {
	.name = "redirty/2t",
	.floor_text = "one walk and one compare-exchange",
	.setup = log_setup_on,
	.teardown = log_destroy,
	.operation = redirty_two,
	.floor = redirty_floor,
	.bound = 20,
	.operations = GIB_PAGES,
	.param = 1,
	.memory_bytes = GIB,
    },
};

const struct bench_list bench_log = {rows, sizeof(rows) / sizeof(rows[0])};
