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

/* What one thread asks of the platform, and the word that another one sets meanwhile. */
static struct {
	uint32_t turns, waits, wakes;
	uint32_t value_waited_for, last_woken;
	const uint32_t *place; /* waited at, or woken at */
	uint32_t *word;	       /* becomes @then at turn @at, or while the thread sleeps */
	uint32_t then, at;
} asked;

static void note_relax(unsigned int turn)
{
	/* Pauses are short at first. */
	assert_int_equal(turn, asked.turns++);
	if (asked.word && turn == asked.at)
		atomic_store_relaxed_u32(asked.word, asked.then);
}

static void note_wait(const uint32_t *word, uint32_t value)
{
	assert_int_equal(*word, value);
	asked.waits++;
	asked.place = word;
	asked.value_waited_for = value;
	atomic_store_relaxed_u32(asked.word, asked.then);
}

static void note_wake(const uint32_t *word, uint32_t count)
{
	asked.wakes++;
	asked.place = word;
	asked.last_woken = count;
}

static void asked_begin(void)
{
	setup(NULL);
	memset(&asked, 0, sizeof(asked));
	waiting = sched_platform;
	waiting.wait = note_wait;
	waiting.wake = note_wake;
	waiting.relax = note_relax;
	quire_platform_install(&waiting);
}

/* @word becomes @then at the turn @at of a spin; a sleep ends with it, too. */
static void asked_will(uint32_t *word, uint32_t then, uint32_t at)
{
	memset(&asked, 0, sizeof(asked));
	asked.word = word;
	asked.then = then;
	asked.at = at;
}

static void asked_is(uint32_t turns, uint32_t waits, uint32_t wakes)
{
	assert_int_equal(asked.turns, turns);
	assert_int_equal(asked.waits, waits);
	assert_int_equal(asked.wakes, wakes);
}

/* A mutex that is held for a moment is waited for without sleeping: 64 turns long. */
static void test_mutex_spins(void **state)
{
	static const uint32_t turns[] = {0, 1, 62, 63};

	(void)state;
	asked_begin();
	for (uint32_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
		asked_will(&world.mutex.word, 0, turns[i]);
		world.mutex.word = 1;
		mutex_lock(&world.mutex);
		asked_is(turns[i] + 1, 0, 0);
		/* After the last turn it does not look again before it says that it sleeps. */
		assert_int_equal(world.mutex.word, turns[i] == 63 ? 2 : 1);
		mutex_unlock(&world.mutex);
		asked_is(turns[i] + 1, 0, turns[i] == 63);
	}
	asked_will(&world.mutex.word, 0, 64);
	world.mutex.word = 1;
	mutex_lock(&world.mutex);
	asked_is(64, 1, 0);
	assert_int_equal(asked.value_waited_for, 2);
	/* Others may sleep, too: one of them is woken. */
	mutex_unlock(&world.mutex);
	asked_is(64, 1, 1);
	assert_ptr_equal(asked.place, &world.mutex.word);
	assert_int_equal(asked.last_woken, 1);
	assert_int_equal(world.mutex.word, 0);
	quire_platform_install(&sched_platform);
}

/* The last reader wakes the writer, and no reader another one. */
static void test_rwlock_wakes(void **state)
{
	(void)state;
	asked_begin();
	rwlock_read_lock(&world.rwlock);
	rwlock_read_unlock(&world.rwlock);
	asked_is(0, 0, 0);
	for (uint32_t readers = 3; readers > 0; readers--) {
		world.rwlock.readers = UINT32_C(1) << 31 | readers;
		/* This one has read since before the writer came. */
		world.rwlock.readers -= UINT32_C(1) << 31 | 1;
		rwlock_read_lock(&world.rwlock);
		world.rwlock.readers |= UINT32_C(1) << 31;
		asked_will(NULL, 0, 0);
		rwlock_read_unlock(&world.rwlock);
		asked_is(0, 0, readers == 1);
		assert_int_equal(world.rwlock.readers, UINT32_C(1) << 31 | (readers - 1));
	}
	assert_ptr_equal(asked.place, &world.rwlock.readers);
	/* A reader sleeps while a writer is there, or waits. */
	asked_will(&world.rwlock.readers, 0, 0);
	rwlock_read_lock(&world.rwlock);
	asked_is(0, 1, 0);
	assert_int_equal(asked.value_waited_for, UINT32_C(1) << 31);
	assert_int_equal(world.rwlock.readers, 1);
	rwlock_read_unlock(&world.rwlock);
	assert_int_equal(world.rwlock.readers, 0);
	/* A writer sleeps while one reads, and all wake when it is done. */
	world.rwlock.readers = 1;
	asked_will(&world.rwlock.readers, UINT32_C(1) << 31, 0);
	rwlock_write_lock(&world.rwlock);
	asked_is(0, 1, 0);
	assert_int_equal(asked.value_waited_for, UINT32_C(1) << 31 | 1);
	rwlock_write_unlock(&world.rwlock);
	asked_is(0, 1, 1);
	assert_int_equal(asked.last_woken, UINT32_MAX);
	assert_int_equal(world.rwlock.readers, 0);
	quire_platform_install(&sched_platform);
}

/* A writer lets readers in that have waited; those that do not come hold it up for 1024 turns. */
static void test_writer_lets_in(void **state)
{
	static const uint32_t turns[] = {0, 1, 1022, 1023, 1024, 5000};

	(void)state;
	asked_begin();
	biglock_write_lock(&world.biglock);
	biglock_write_unlock(&world.biglock);
	asked_is(0, 0, 0);
	for (uint32_t i = 0; i < sizeof(turns) / sizeof(turns[0]); i++) {
		asked_will(&world.biglock.waiting, 0, turns[i]);
		world.biglock.waiting = 1;
		biglock_write_lock(&world.biglock);
		asked_is(turns[i] < 1024 ? turns[i] + 1 : 1024, 0, 0);
		biglock_write_unlock(&world.biglock);
		asked_is(turns[i] < 1024 ? turns[i] + 1 : 1024, 0, 0);
		world.biglock.waiting = 0;
	}
	quire_platform_install(&sched_platform);
}

/* A writer waits for each reader that was there before it, without sleeping. */
static void test_writer_waits_for_readers(void **state)
{
	struct biglock_line *lines[] = {&world.biglock.shared, &world.line};

	(void)state;
	asked_begin();
	for (uint32_t which = 0; which < 2; which++)
		for (uint32_t turns = 0; turns < 3; turns++) {
			asked_will(&lines[which]->busy, 0, turns);
			lines[which]->busy = 1;
			biglock_write_lock(&world.biglock);
			asked_is(turns + 1, 0, 0);
			assert_int_equal(world.biglock.writer, GATE_CLOSED);
			biglock_write_unlock(&world.biglock);
			asked_is(turns + 1, 0, 0);
			assert_int_equal(world.biglock.writer, 0);
		}
	/* A line that was removed is not looked at. */
	biglock_line_remove(&world.biglock, &world.line);
	assert_ptr_equal(world.biglock.lines, &world.biglock.shared);
	assert_null(world.biglock.shared.next);
	world.line.busy = 1;
	asked_will(NULL, 0, 0);
	biglock_write_lock(&world.biglock);
	biglock_write_unlock(&world.biglock);
	asked_is(0, 0, 0);
	quire_platform_install(&sched_platform);
}

/* A gate that is closed is slept at, and one that opens wakes all, if there are any. */
static void test_gate(void **state)
{
	uint32_t gate = 0;

	(void)state;
	asked_begin();
	gate_wait(&gate);
	gate_open(&gate);
	asked_is(0, 0, 0);
	gate = GATE_CLOSED;
	gate_open(&gate);
	asked_is(0, 0, 0);
	assert_int_equal(gate, 0);
	for (uint32_t closed = GATE_CLOSED; closed <= GATE_SLEEPERS; closed++) {
		gate = closed;
		asked_will(&gate, 0, 0);
		gate_wait(&gate);
		asked_is(0, 1, 0);
		assert_int_equal(asked.value_waited_for, GATE_SLEEPERS);
	}
	gate = GATE_SLEEPERS;
	gate_open(&gate);
	asked_is(0, 1, 1);
	assert_ptr_equal(asked.place, &gate);
	assert_int_equal(asked.last_woken, UINT32_MAX);
	assert_int_equal(gate, 0);
	quire_platform_install(&sched_platform);
}

static struct quire_thread reader;

static void leave_section(unsigned int turn)
{
	assert_int_equal(turn, asked.turns++);
	if (turn == asked.at)
		atomic_store_relaxed_u64(&reader.epoch, asked.then ? reclaim_epoch : 0);
}

/* A grace period waits for a section that began before it, and not for one that began since. */
static void test_grace_period(void **state)
{
	(void)state;
	asked_begin();
	waiting.relax = leave_section;
	quire_thread_register(&reader);
	for (uint32_t again = 0; again < 2; again++)
		for (uint32_t turns = 0; turns < 3; turns++) {
			uint64_t epoch = reclaim_epoch;

			asked_will(NULL, again, turns);
			/* The thread leaves its section, or it is in the next one. */
			reader.epoch = epoch;
			reclaim_synchronize();
			asked_is(turns + 1, 0, 0);
			assert_int_equal(reclaim_epoch, epoch + 1);
			asked_will(NULL, 0, 0);
			/* Of this epoch is what began after the last call, and before the next. */
			reader.epoch = epoch + 2;
			reclaim_synchronize();
			asked_is(0, 0, 0);
			reader.epoch = 0;
			reclaim_synchronize();
			asked_is(0, 0, 0);
			assert_int_equal(reclaim_epoch, epoch + 3);
		}
	quire_platform_install(&sched_platform);
}

/* A section that ends wakes those that wait for it, when there are any. */
static void test_section_wakes(void **state)
{
	uint32_t turn;

	(void)state;
	asked_begin();
	for (uint32_t round = 0; round < 2; round++) {
		turn = long_section_enter(&world.sections);
		long_section_leave(&world.sections, turn);
		asked_is(0, 0, 0);
		/* Without a section it does not sleep; newcomers are counted where they were. */
		long_sections_wait(&world.sections);
		asked_is(0, 0, 0);
		assert_int_equal(world.sections.turn, turn);
	}
	for (uint32_t which = 0; which < 2; which++) {
		world.sections.inside[which] = 3;
		asked_will(&world.sections.inside[which], 0, 0);
		long_sections_wait(&world.sections);
		asked_is(0, 1, 0);
		assert_ptr_equal(asked.place, &world.sections.inside[which]);
		assert_int_equal(asked.value_waited_for, 3);
	}
	world.sections.waiting = 1;
	turn = long_section_enter(&world.sections);
	long_section_leave(&world.sections, turn);
	asked_is(0, 1, 1);
	assert_ptr_equal(asked.place, &world.sections.inside[turn]);
	assert_int_equal(asked.last_woken, UINT32_MAX);
	assert_int_equal(world.sections.inside[turn], 0);
	quire_platform_install(&sched_platform);
}

static void is_held(bool mutex, enum lock_mode rwlock, bool biglock)
{
	assert_int_equal(lock_is_held(&world.mutex, LOCK_EXCLUSIVE), mutex);
	assert_int_equal(lock_is_held(&world.rwlock, LOCK_SHARED), rwlock >= LOCK_SHARED);
	assert_int_equal(lock_is_held(&world.rwlock, LOCK_EXCLUSIVE), rwlock == LOCK_EXCLUSIVE);
	assert_int_equal(lock_is_held(&world.biglock, LOCK_EXCLUSIVE), biglock);
	assert_int_equal(lock_rank_is_held(RANK_SLOTS), mutex);
	assert_int_equal(lock_rank_is_held(RANK_PFN_CACHE), rwlock >= LOCK_SHARED);
	assert_int_equal(lock_rank_is_held(RANK_MMU), biglock);
	assert_int_equal(lock_rank_is_held(RANK_ARENA), 0);
	assert_int_equal(base_self()->held_count, mutex + (rwlock >= LOCK_SHARED) + biglock);
}

static void release(uint32_t which, enum lock_mode mode)
{
	if (which == 0)
		mutex_unlock(&world.mutex);
	else if (which == 2)
		biglock_write_unlock(&world.biglock);
	else if (mode == LOCK_SHARED)
		rwlock_read_unlock(&world.rwlock);
	else
		rwlock_write_unlock(&world.rwlock);
}

/* In check builds a thread knows which locks it holds, in whichever order it gives them back. */
static void test_held(void **state)
{
	static const uint32_t orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
					     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

	(void)state;
	setup(NULL);
	for (uint32_t i = 0; i < 12; i++) {
		enum lock_mode mode = i % 2 ? LOCK_SHARED : LOCK_EXCLUSIVE;
		bool held[3] = {true, true, true};

		is_held(false, (enum lock_mode)0, false);
		mutex_lock(&world.mutex);
		is_held(true, (enum lock_mode)0, false);
		if (mode == LOCK_SHARED)
			rwlock_read_lock(&world.rwlock);
		else
			rwlock_write_lock(&world.rwlock);
		is_held(true, mode, false);
		biglock_write_lock(&world.biglock);
		is_held(true, mode, true);
		for (uint32_t step = 0; step < 3; step++) {
			release(orders[i / 2][step], mode);
			held[orders[i / 2][step]] = false;
			is_held(held[0], held[1] ? mode : (enum lock_mode)0, held[2]);
		}
	}
}

/* A writer, and one that adds or removes a line, waits for the writer before it. */
static void test_writers_come_one_by_one(void **state)
{
	struct biglock_line line;

	(void)state;
	asked_begin();
	/* The memory of a line may be anything before. */
	memset(&line, 0x5a, sizeof(line));
	for (uint32_t step = 0; step < 4; step++) {
		struct mutex *writers = step == 3 ? &world.rwlock.writers : &world.biglock.writers;

		asked_will(&writers->word, 0, 0);
		writers->word = 1;
		if (step == 0)
			biglock_line_add(&world.biglock, &line);
		else if (step == 1)
			biglock_line_remove(&world.biglock, &line);
		else if (step == 2)
			biglock_write_lock(&world.biglock);
		else
			rwlock_write_lock(&world.rwlock);
		asked_is(1, 0, 0);
		assert_int_equal(line.busy, 0);
		if (step == 2)
			biglock_write_unlock(&world.biglock);
		if (step == 3)
			rwlock_write_unlock(&world.rwlock);
		assert_int_equal(writers->word, 0);
	}
	quire_platform_install(&sched_platform);
}

/* While the thread sleeps at the gate: it is counted once, and holds nothing up. */
static void wait_at_gate(const uint32_t *word, uint32_t value)
{
	assert_ptr_equal(word, &world.biglock.writer);
	assert_int_equal(value, GATE_SLEEPERS);
	assert_int_equal(world.biglock.waiting, 1);
	assert_int_equal(world.biglock.shared.busy, 0);
	assert_int_equal(world.line.busy, 0);
	assert_int_equal(base_self()->epoch, 0);
	assert_int_equal(base_self()->nesting, 0);
	/* The next writer is there at once: the first time the gate stays closed. */
	if (asked.waits++)
		world.biglock.writer = 0;
	else
		world.biglock.writer = GATE_SLEEPERS;
}

/* Readers that find the gate closed sleep, in each of the ways to read. */
static void test_reader_waits(void **state)
{
	(void)state;
	asked_begin();
	waiting.wait = wait_at_gate;
	for (uint32_t way = 0; way < 3; way++) {
		struct biglock_line *line = way ? &world.line : NULL;
		struct quire_thread *self = NULL;

		asked_will(NULL, 0, 0);
		world.biglock.writer = GATE_CLOSED;
		if (way < 2)
			biglock_read_lock(&world.biglock, line);
		else
			self = biglock_read_enter(&world.biglock, line);
		asked_is(0, 2, 0);
		assert_int_equal(world.biglock.waiting, 0);
		assert_int_equal(world.biglock.shared.busy, !line);
		assert_int_equal(world.line.busy, line != NULL);
		assert_int_equal(base_self()->nesting, way == 2);
		assert_int_equal(base_self()->epoch, way == 2 ? reclaim_epoch : 0);
		if (way < 2)
			biglock_read_unlock(&world.biglock, line);
		else
			biglock_read_exit(&world.biglock, line, self);
		asked_is(0, 2, 0);
		assert_int_equal(world.biglock.shared.busy, 0);
		assert_int_equal(world.line.busy, 0);
		assert_int_equal(base_self()->epoch, 0);
		assert_int_equal(base_self()->held_count, 0);
	}
	quire_platform_install(&sched_platform);
}

/* Readers without a line are counted, for the writer waits for the last of them. */
static void test_shared_line_counts(void **state)
{
	(void)state;
	asked_begin();
	world.biglock.shared.busy = 3;
	biglock_read_lock(&world.biglock, NULL);
	assert_int_equal(world.biglock.shared.busy, 4);
	biglock_read_unlock(&world.biglock, NULL);
	assert_int_equal(world.biglock.shared.busy, 3);
	world.biglock.shared.busy = 0;
	quire_platform_install(&sched_platform);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_mutex),
	    cmocka_unit_test(test_rwlock),
	    cmocka_unit_test(test_biglock),
	    cmocka_unit_test(test_biglock_in_pieces),
	    cmocka_unit_test(test_reclaim),
	    cmocka_unit_test(test_section),
	    cmocka_unit_test(test_ranks),
	    cmocka_unit_test(test_mutex_sleeps),
	    cmocka_unit_test(test_exclusive),
	    cmocka_unit_test(test_mutex_sleeps_behind_others),
	    cmocka_unit_test(test_mutex_spins),
	    cmocka_unit_test(test_rwlock_wakes),
	    cmocka_unit_test(test_writer_lets_in),
	    cmocka_unit_test(test_writer_waits_for_readers),
	    cmocka_unit_test(test_gate),
	    cmocka_unit_test(test_grace_period),
	    cmocka_unit_test(test_section_wakes),
	    cmocka_unit_test(test_held),
	    cmocka_unit_test(test_writers_come_one_by_one),
	    cmocka_unit_test(test_reader_waits),
	    cmocka_unit_test(test_shared_line_counts),
	};

	quire_platform_install(&sched_platform);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
