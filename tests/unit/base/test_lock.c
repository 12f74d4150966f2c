/* Locks, read sections and long sections: what they exclude, in every interleaving with few
 * preemptions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <quire/platform.h>

#include "hosts/sim/sched.h"
#include "src/base/lock.h"
#include "src/base/reclaim.h"
#include "src/base/section.h"

#define THREADS 3u
#define PREEMPTIONS 2u

static struct {
	struct mutex mutex;
	struct rwlock rwlock;
	struct biglock biglock;
	struct biglock_line line;
	struct long_sections sections;
	uint32_t inside, writers, reads, count;
	uint64_t object; /* 1 while readers may use it, 2 when it is unlinked, 3 when it is freed */
	bool wrong;
} world;

static void setup(void *ctx)
{
	memset(&world, 0, sizeof(world));
	/* The memory of a lock may be anything before. */
	memset(&world.mutex, 0x5a, sizeof(world.mutex));
	memset(&world.rwlock, 0x5a, sizeof(world.rwlock));
	memset(&world.biglock, 0x5a, sizeof(world.biglock));
	mutex_init(&world.mutex, RANK_SLOTS);
	rwlock_init(&world.rwlock, RANK_PFN_CACHE);
	biglock_init(&world.biglock, RANK_MMU);
	biglock_line_add(&world.biglock, &world.line);
	world.object = 1;
}

/* Alone, or among readers: what a holder of a lock may be. */
static void hold(bool alone)
{
	world.inside++;
	world.writers += alone;
	sched_yield_point();
	world.wrong |= world.writers > 1 || (world.writers && world.inside > 1);
	world.writers -= alone;
	world.inside--;
}

static void mutex_body(uint32_t thread, void *ctx)
{
	for (uint32_t turn = 0; turn < 3; turn++) {
		mutex_lock(&world.mutex);
		hold(true);
		world.count += !turn;
		mutex_unlock(&world.mutex);
	}
}

/* The first thread writes, the others read. */
static void rwlock_body(uint32_t thread, void *ctx)
{
	if (thread == 0) {
		rwlock_write_lock(&world.rwlock);
		hold(true);
		rwlock_write_unlock(&world.rwlock);
	} else {
		rwlock_read_lock(&world.rwlock);
		hold(false);
		rwlock_read_unlock(&world.rwlock);
	}
	world.count++;
}

static void biglock_body(uint32_t thread, void *ctx)
{
	struct biglock_line *line = thread == 1 ? &world.line : NULL;

	if (thread == 0) {
		biglock_write_lock(&world.biglock);
		hold(true);
		biglock_write_unlock(&world.biglock);
	} else {
		biglock_read_lock(&world.biglock, line);
		hold(false);
		biglock_read_unlock(&world.biglock, line);
	}
	world.count++;
}

/*
 * The first thread writes in pieces, as a harvest does. A reader that waited in one piece reads
 * before the next.
 */
static void pieces_body(uint32_t thread, void *ctx)
{
	struct biglock_line *line = thread == 1 ? &world.line : NULL;
	uint32_t due = 0;

	for (uint32_t piece = 0; piece < 3 && thread == 0; piece++) {
		biglock_write_lock(&world.biglock);
		world.wrong |= world.reads < due;
		hold(true);
		due = world.reads + atomic_load_relaxed_u32(&world.biglock.waiting);
		biglock_write_unlock(&world.biglock);
	}
	if (thread) {
		biglock_read_lock(&world.biglock, line);
		world.reads++;
		hold(false);
		biglock_read_unlock(&world.biglock, line);
	}
	world.count++;
}

/* A reader that has found the object may use it until its section ends. */
static void use_object(void)
{
	if (atomic_load_acquire_u64(&world.object) != 1)
		return;
	sched_yield_point();
	world.wrong |= atomic_load_acquire_u64(&world.object) == 3;
}

static void reclaim_body(uint32_t thread, void *ctx)
{
	if (thread == 0) {
		atomic_store_release_u64(&world.object, 2);
		reclaim_synchronize();
		atomic_store_release_u64(&world.object, 3);
	} else {
		reclaim_enter();
		use_object();
		reclaim_leave();
	}
	world.count++;
}

static void section_body(uint32_t thread, void *ctx)
{
	if (thread == 0) {
		atomic_store_release_u64(&world.object, 2);
		long_sections_wait(&world.sections);
		atomic_store_release_u64(&world.object, 3);
	} else {
		uint32_t turn = long_section_enter(&world.sections);

		use_object();
		long_section_leave(&world.sections, turn);
	}
	world.count++;
}

static bool is_right(void *ctx)
{
	return !world.wrong && world.count == THREADS;
}

static void explore(void (*body)(uint32_t thread, void *ctx))
{
	const struct sched_test test = {
	    .threads = THREADS,
	    .preemptions_max = PREEMPTIONS,
	    .setup = setup,
	    .body = body,
	    .check = is_right,
	};
	struct sched_verdict verdict = sched_explore(&test);

	assert_false(verdict.failed);
	/* Fewer where hosts/sim/sched.h says so. */
	assert_true(verdict.runs > 100 || getenv("QUIRE_PREEMPTIONS"));
}

static void test_mutex(void **state)
{
	explore(mutex_body);
}

static void test_rwlock(void **state)
{
	explore(rwlock_body);
}

static void test_biglock(void **state)
{
	explore(biglock_body);
}

static void test_biglock_in_pieces(void **state)
{
	explore(pieces_body);
	assert_int_equal(world.biglock.waiting, 0);
}

static void test_reclaim(void **state)
{
	explore(reclaim_body);
}

static void test_section(void **state)
{
	explore(section_body);
}

static struct quire_platform waiting;
static uint32_t waits;

static void spin(unsigned int turn)
{
}

/* The owner unlocks once its waiter sleeps. */
static void unlock_meanwhile(const uint32_t *word, uint32_t value)
{
	assert_ptr_equal(word, &world.mutex.word);
	assert_int_equal(*word, 2);
	assert_int_equal(value, 2);
	waits++;
	atomic_store_relaxed_u32(&world.mutex.word, 0);
}

/* A thread that waits for a mutex says so in its word, and sleeps for as long as it says so. */
static void test_mutex_sleeps(void **state)
{
	setup(NULL);
	waiting = sched_platform;
	waiting.wait = unlock_meanwhile;
	waiting.relax = spin;
	quire_platform_install(&waiting);
	waits = 0;
	world.mutex.word = 1;
	mutex_lock(&world.mutex);
	assert_int_equal(waits, 1);
	assert_int_equal(world.mutex.word, 2);
	mutex_unlock(&world.mutex);
	quire_platform_install(&sched_platform);
}

static uint32_t spins;

static void count_spin(unsigned int turn)
{
	spins++;
}

/* Where one thread sleeps already the lock is held for long: the next one sleeps, too, at once. */
static void test_mutex_sleeps_behind_others(void **state)
{
	setup(NULL);
	waiting = sched_platform;
	waiting.wait = unlock_meanwhile;
	waiting.relax = count_spin;
	quire_platform_install(&waiting);
	waits = spins = 0;
	world.mutex.word = 2;
	mutex_lock(&world.mutex);
	assert_int_equal(waits, 1);
	assert_int_equal(spins, 0);
	mutex_unlock(&world.mutex);
	quire_platform_install(&sched_platform);
}

static void test_exclusive(void **state)
{
	setup(NULL);
	assert_false(biglock_is_exclusive(&world.biglock));
	biglock_write_lock(&world.biglock);
	assert_true(biglock_is_exclusive(&world.biglock));
	biglock_write_unlock(&world.biglock);
	assert_false(biglock_is_exclusive(&world.biglock));
}

static unsigned int reports;

static void count_report(const char *text)
{
	reports++;
}

/* Ranks rise: the other order is reported, whether it would block or not. */
static void test_ranks(void **state)
{
	struct mutex outer, inner;

	mutex_init(&outer, RANK_SLOTS);
	mutex_init(&inner, RANK_FLUSH);
	reports = 0;
	sched_on_report(count_report);
	mutex_lock(&outer);
	mutex_lock(&inner);
	assert_int_equal(reports, 0);
	mutex_unlock(&inner);
	mutex_unlock(&outer);
	mutex_lock(&inner);
	mutex_lock(&outer);
	assert_int_equal(reports, 1);
	mutex_unlock(&outer);
	mutex_unlock(&inner);
	sched_on_report(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mutex),     cmocka_unit_test(test_rwlock),
	    cmocka_unit_test(test_biglock),   cmocka_unit_test(test_biglock_in_pieces),
	    cmocka_unit_test(test_reclaim),   cmocka_unit_test(test_section),
	    cmocka_unit_test(test_ranks),     cmocka_unit_test(test_mutex_sleeps),
	    cmocka_unit_test(test_exclusive), cmocka_unit_test(test_mutex_sleeps_behind_others),
	};

	quire_platform_install(&sched_platform);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
