/* The platform: records of threads, futex waits, and what fork() needs. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <linux/futex.h>
#include <sys/mman.h>

#include "hosts/process/fork.h"
#include "hosts/process/internal.h"
#include "hosts/process/map.h"
#include "hosts/process/process.h"
#include "hosts/process/sys.h"

/*
 * A record is some thread's or in the pool, and is never freed. The destructor of the thread's key
 * gives it back. The links are written under pool_lock, but for that of one that is given back; the
 * library reads the rest at any time.
 */
struct record {
	struct quire_thread thread;
	struct record *all_next;
	struct record *pool_next;
};

/* Enough for most clients without asking the kernel, which could refuse. */
#define FIRST_RECORDS 512u
#define ARENA_BYTES (UINT64_C(256) << 10)

static struct record first_records[FIRST_RECORDS];

static struct process_lock pool_lock;
static struct record *unused = first_records, *unused_end = first_records + FIRST_RECORDS;
static struct record *all_records, *pool;
static struct record *returned; /* by threads that ended, without the lock; taken as a whole */
static pthread_key_t record_key;
static _Thread_local struct record *own_record __attribute__((tls_model("initial-exec")));

static void platform_relax(unsigned int turn);

/* The library's own entry: its locks are not static ones of this folder. */
static const struct fork_entry core_entry __attribute__((section("quire_fork"), used)) = {
    .rank = FORK_CORE, .child = quire_platform_forked};

/* Forget what a thread that is gone left behind; the library's own link stays. */
static void record_reset(struct record *record)
{
	__atomic_store_n(&record->thread.epoch, 0, __ATOMIC_RELEASE);
	record->thread.nesting = 0;
	record->thread.held_count = 0;
}

/*
 * Called by the thread's exit, perhaps again: another key's destructor may use the library, and so
 * may a handler of the client's at any instruction here, which takes another record.
 */
static void record_give_back(void *own)
{
	struct record *record = own;

	own_record = NULL;
	record_reset(record);
	record->pool_next = __atomic_load_n(&returned, __ATOMIC_RELAXED);
	while (!__atomic_compare_exchange_n(&returned, &record->pool_next, record, 0,
					    __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		;
}

/*
 * A new record, known to the library first: the child of a fork hands out what it finds listed.
 * NULL: no memory. pool_lock held.
 */
static struct record *record_carve(void)
{
	struct record *record;
	long arena;

	if (unused == unused_end) {
		arena = process_map(ARENA_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1);
		if (sys_failed(arena))
			return NULL;
		unused = (struct record *)arena;
		unused_end = unused + ARENA_BYTES / sizeof(*unused);
	}
	record = unused++;
	quire_thread_register(&record->thread);
	record->all_next = all_records;
	/* fork() may copy the list at any moment. */
	__atomic_store_n(&all_records, record, __ATOMIC_RELEASE);
	return record;
}

static struct record *record_take_once(void)
{
	struct record *record;

	process_lock_acquire(&pool_lock);
	if (!pool)
		pool = __atomic_exchange_n(&returned, NULL, __ATOMIC_ACQUIRE);
	record = pool;
	if (record) {
		pool = record->pool_next;
		process_lock_release(&pool_lock);
		return record;
	}
	record = record_carve();
	process_lock_release(&pool_lock);
	return record;
}

/*
 * The first call of a thread. A client's signal handler may call the library, too: it is held off
 * meanwhile, so that it finds either no record or a complete one. Without memory, wait for some
 * thread to end.
 */
__attribute__((noinline)) static struct quire_thread *record_take(void)
{
	uint64_t all = ~UINT64_C(0), old;
	struct record *record;

	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&all), sys_address(&old),
		 sizeof(all));
	record = record_take_once();
	for (unsigned int turn = 0; !record; turn++) {
		platform_relax(turn);
		record = record_take_once();
	}
	own_record = record;
	pthread_setspecific(record_key, record);
	sys_call(SYS_rt_sigprocmask, SIG_SETMASK, sys_address(&old), 0, sizeof(old));
	return &record->thread;
}

static struct quire_thread *platform_self(void)
{
	struct record *record = own_record;

	return __builtin_expect(record != NULL, 1) ? &record->thread : record_take();
}

static void platform_wait(const uint32_t *word, uint32_t value)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAIT_PRIVATE, value);
}

static void platform_wake(const uint32_t *word, uint32_t count)
{
	sys_call(SYS_futex, sys_address(word), FUTEX_WAKE_PRIVATE,
		 count > INT32_MAX ? INT32_MAX : count);
}

/* First the other processor may be about to finish, then ours is needed, then it takes long. */
static void platform_relax(unsigned int turn)
{
	const struct timespec nap = {.tv_nsec = 50000};

	if (turn < 128)
		__builtin_ia32_pause();
	else if (turn < 1024)
		sys_call(SYS_sched_yield, 0);
	else
		sys_call(SYS_nanosleep, sys_address(&nap));
}

/* One write, so that lines of several threads do not mix; a longer text loses its end. */
static void platform_report(const char *text)
{
	char line[512];
	size_t length = strnlen(text, sizeof(line) - 1);

	memcpy(line, text, length);
	if (!length || line[length - 1] != '\n')
		line[length++] = '\n';
	sys_call(SYS_write, 2, sys_address(line), length);
}

const struct quire_platform process_platform = {
    .self = platform_self,
    .wait = platform_wait,
    .wake = platform_wake,
    .relax = platform_relax,
    .report = platform_report,
};

/*
 * Only the forking thread is left: no other record may hold up a grace period. A record that was
 * being carved is lost, and with it the rest of its arena.
 */
static void fork_child(void)
{
	if (process_lock_start_anew(&pool_lock))
		unused = unused_end = NULL;
	pool = returned = NULL;
	for (struct record *record = all_records; record; record = record->all_next) {
		if (record == own_record)
			continue;
		record_reset(record);
		record->pool_next = pool;
		pool = record;
	}
	process_runner_forked();
}
FORK_CHILD(FORK_RECORDS, pool_lock, fork_child);

__attribute__((constructor(101))) static void platform_start(void)
{
	pthread_key_create(&record_key, record_give_back);
	/* Before every constructor of the client, so that its own handlers run outside of ours:
	 * libc calls those before a fork in the reverse order of their registration. */
	process_fork_install();
}
