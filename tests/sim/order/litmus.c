/* Short programs whose outcomes C11 names: the model shows those it allows and no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "hosts/sim/order.h"
#include "hosts/sim/sched.h"
#include "src/base/atomic.h"

#define THREADS_MAX 4u
#define CHOICES 4u

/* Two words that the threads share, and what each of them read, two numbers a thread. */
static uint32_t x, y, data;
static uint32_t read[THREADS_MAX][2];
static const char *broken;
static bool is_x_guarded;

struct litmus {
	const char *name;
	uint32_t threads;
	void (*body)(uint32_t thread);
	/* The outcome that is asked for. */
	bool (*is_weak)(void);
	bool is_allowed;
};

/* A thread raises a flag after it stored a word: does the reader that sees the flag see the word?
 */
static void message_relaxed(uint32_t thread)
{
	if (thread) {
		read[1][0] = atomic_load_relaxed_u32(&y);
		read[1][1] = atomic_load_relaxed_u32(&x);
	} else {
		atomic_store_relaxed_u32(&x, 1);
		atomic_store_relaxed_u32(&y, 1);
	}
}

static void message(uint32_t thread)
{
	if (thread) {
		read[1][0] = atomic_load_acquire_u32(&y);
		read[1][1] = atomic_load_relaxed_u32(&x);
	} else {
		atomic_store_relaxed_u32(&x, 1);
		atomic_store_release_u32(&y, 1);
	}
}

static void message_half_a_pair(uint32_t thread)
{
	if (thread) {
		read[1][0] = atomic_load_acquire_u32(&y);
		read[1][1] = atomic_load_relaxed_u32(&x);
	} else {
		atomic_store_relaxed_u32(&x, 1);
		atomic_store_relaxed_u32(&y, 1);
	}
}

static void message_by_fences(uint32_t thread)
{
	if (thread) {
		read[1][0] = atomic_load_relaxed_u32(&y);
		atomic_fence();
		read[1][1] = atomic_load_relaxed_u32(&x);
	} else {
		atomic_store_relaxed_u32(&x, 1);
		atomic_fence();
		atomic_store_relaxed_u32(&y, 1);
	}
}

/* The flag was released by one thread, and counted up by another before it is seen. */
static void message_through_a_counter(uint32_t thread)
{
	if (thread == 2) {
		read[1][0] = atomic_load_acquire_u32(&y) == 2;
		read[1][1] = atomic_load_relaxed_u32(&x);
	} else if (thread == 1) {
		atomic_add_relaxed_u32(&y, 1);
	} else {
		atomic_store_relaxed_u32(&x, 1);
		atomic_store_release_u32(&y, 1);
	}
}

static bool flag_without_word(void)
{
	return read[1][0] == 1 && read[1][1] == 0;
}

/* Each stores a word and reads the other's. */
static void both_store(uint32_t thread)
{
	atomic_store_release_u32(thread ? &y : &x, 1);
	read[thread][0] = atomic_load_acquire_u32(thread ? &x : &y);
}

static void both_store_fenced(uint32_t thread)
{
	atomic_store_relaxed_u32(thread ? &y : &x, 1);
	atomic_fence();
	read[thread][0] = atomic_load_relaxed_u32(thread ? &x : &y);
}

static void both_exchange(uint32_t thread)
{
	(void)atomic_exchange_u32(thread ? &y : &x, 1);
	read[thread][0] = atomic_load_relaxed_u32(thread ? &x : &y);
}

static bool none_sees_the_other(void)
{
	return !read[0][0] && !read[1][0];
}

/* One word: a later read sees no earlier store. */
static void one_word(uint32_t thread)
{
	if (!thread) {
		atomic_store_relaxed_u32(&x, 1);
		atomic_store_relaxed_u32(&x, 2);
		return;
	}
	read[1][0] = atomic_load_relaxed_u32(&x);
	read[1][1] = atomic_load_relaxed_u32(&x);
}

static bool goes_back(void)
{
	return read[1][0] > read[1][1];
}

/* What one has seen and passed on, the next sees, too. */
static void seen_and_told(uint32_t thread)
{
	if (thread == 0) {
		atomic_store_relaxed_u32(&x, 1);
	} else if (thread == 1) {
		if (atomic_load_relaxed_u32(&x))
			atomic_store_release_u32(&y, 1);
	} else {
		read[1][0] = atomic_load_acquire_u32(&y);
		read[1][1] = atomic_load_relaxed_u32(&x);
	}
}

/* Two readers, two writers: do the readers agree which was first? */
static void two_readers(uint32_t thread)
{
	if (thread < 2) {
		atomic_store_release_u32(thread ? &y : &x, 1);
		return;
	}
	read[thread - 2][0] = atomic_load_acquire_u32(thread == 2 ? &x : &y);
	read[thread - 2][1] = atomic_load_acquire_u32(thread == 2 ? &y : &x);
}

static void two_readers_fenced(uint32_t thread)
{
	if (thread < 2) {
		atomic_store_relaxed_u32(thread ? &y : &x, 1);
		return;
	}
	read[thread - 2][0] = atomic_load_relaxed_u32(thread == 2 ? &x : &y);
	atomic_fence();
	read[thread - 2][1] = atomic_load_relaxed_u32(thread == 2 ? &y : &x);
}

static bool they_disagree(void)
{
	return read[0][0] && !read[0][1] && read[1][0] && !read[1][1];
}

static const struct litmus litmuses[] = {
    {"a message, relaxed", 2, message_relaxed, flag_without_word, true},
    {"a message", 2, message, flag_without_word, false},
    {"a message, acquired and not released", 2, message_half_a_pair, flag_without_word, true},
    {"a message by fences", 2, message_by_fences, flag_without_word, false},
    {"a message through a counter", 3, message_through_a_counter, flag_without_word, false},
    {"what was seen is told", 3, seen_and_told, flag_without_word, false},
    {"both store and read", 2, both_store, none_sees_the_other, true},
    {"both store and read, fenced", 2, both_store_fenced, none_sees_the_other, false},
    {"both exchange and read", 2, both_exchange, none_sees_the_other, false},
    {"one word, read twice", 2, one_word, goes_back, false},
    {"two readers of two writers", 4, two_readers, they_disagree, true},
    {"two readers of two writers, fenced", 4, two_readers_fenced, they_disagree, false},
};

static void clear(void *ctx)
{
	(void)ctx;
	x = y = data = 0;
	memset(read, 0, sizeof(read));
	broken = NULL;
	if (is_x_guarded)
		order_guard(&x, sizeof(x));
}

static void run_body(uint32_t thread, void *ctx)
{
	((const struct litmus *)ctx)->body(thread);
}

static bool is_not_weak(void *ctx)
{
	return !((const struct litmus *)ctx)->is_weak();
}

static struct sched_verdict explore(const struct litmus *litmus)
{
	const struct sched_test test = {
	    .threads = litmus->threads,
	    .preemptions_max = CHOICES,
	    .setup = clear,
	    .body = run_body,
	    .check = is_not_weak,
	    .ctx = (void *)litmus,
	};

	return sched_explore(&test);
}

static void test_outcomes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(litmuses) / sizeof(litmuses[0]); i++) {
		struct sched_verdict verdict = explore(&litmuses[i]);

		print_message("%s: %s after %llu runs\n", litmuses[i].name,
			      verdict.failed ? "seen" : "not seen",
			      (unsigned long long)verdict.runs);
		assert_int_equal(verdict.failed, litmuses[i].is_allowed);
	}
}

/* Without the model memory alone decides: the scheduler's order is that of the stores. */
static void test_model_off(void **state)
{
	(void)state;
	order_enable(false);
	assert_false(explore(&litmuses[0]).failed);
	order_enable(true);
}

static void note_report(const char *text)
{
	broken = text;
}

static void plain_message(uint32_t thread)
{
	if (!thread) {
		data = 7;
		atomic_store_release_u32(&y, 1);
	} else if (atomic_load_acquire_u32(&y)) {
		read[1][0] = data;
	}
}

static void plain_message_relaxed(uint32_t thread)
{
	if (!thread) {
		data = 7;
		atomic_store_relaxed_u32(&y, 1);
	} else if (atomic_load_acquire_u32(&y)) {
		read[1][0] = data;
	}
}

static void plain_and_atomic(uint32_t thread)
{
	if (thread)
		data = 7;
	else
		atomic_store_release_u32(&data, 8);
}

static void plain_after_a_read(uint32_t thread)
{
	if (thread) {
		read[1][0] = data;
		atomic_store_relaxed_u32(&y, 1);
	} else if (atomic_load_acquire_u32(&y)) {
		data = 7;
	}
}

/* Fences by themselves order no plain accesses: no thread has read what the other stored. */
static void plain_between_fences(uint32_t thread)
{
	if (!thread)
		data = 7;
	atomic_fence();
	if (thread)
		read[1][0] = data;
}

/* Its plain read comes after the store that it has seen. */
static void plain_after_the_same(uint32_t thread)
{
	if (!thread)
		atomic_store_release_u32(&data, 7);
	else if (atomic_load_acquire_u32(&data))
		read[1][0] = data;
}

/* Of fields that lie side by side, across two lines of the model's book, and in parts of a cell. */
static uint8_t fields[128] __attribute__((aligned(64)));

static uint64_t wide_at(size_t at)
{
	return ((const struct { uint64_t value; }
		 __attribute__((packed, may_alias)) *)(fields + at))
	    ->value;
}

static void plain_across_lines(uint32_t thread)
{
	if (thread)
		read[1][0] = (uint32_t)wide_at(60);
	else
		fields[65] = 1;
}

static void plain_beside(uint32_t thread)
{
	if (thread)
		read[1][0] = (uint32_t)wide_at(58) + fields[67];
	else
		fields[66] = fields[57] = 1;
}

/* The thread does the same again once it has told the other of the first time. */
static void plain_after_the_message(uint32_t thread)
{
	if (!thread) {
		data = 7;
		atomic_store_release_u32(&y, 1);
		data = 7;
	} else if (atomic_load_acquire_u32(&y)) {
		read[1][0] = data;
	}
}

/* The book is large enough for all that a run clears. */
static uint64_t table[65536];

static void plain_before_a_table(uint32_t thread)
{
	if (thread) {
		data = 7;
		return;
	}
	read[0][0] = data;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		((volatile uint64_t *)table)[i] = 0;
}

static bool never(void)
{
	return false;
}

/* A plain word that a message orders races no more; without an order, or with half of one, it does.
 */
static void test_races(void **state)
{
	static const struct {
		void (*body)(uint32_t thread);
		bool races, at_once; /* with the fences one after the other, too */
	} rows[] = {{plain_message, false, false},	   {plain_message_relaxed, true, false},
		    {plain_and_atomic, true, false},	   {plain_after_a_read, true, false},
		    {plain_after_the_same, false, false},  {plain_between_fences, true, true},
		    {plain_across_lines, true, true},	   {plain_beside, false, false},
		    {plain_after_the_message, true, true}, {plain_before_a_table, true, true}};

	(void)state;
	sched_on_report(note_report);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct litmus litmus = {"", 2, rows[i].body, never, false};
		struct sched_verdict verdict = explore(&litmus);

		assert_int_equal(verdict.failed, rows[i].races);
		assert_true(!rows[i].at_once || verdict.runs == 1);
		if (rows[i].races) {
			assert_int_equal(verdict.result, SCHED_BROKEN);
			assert_non_null(strstr(broken, "data race"));
		}
	}
	sched_on_report(NULL);
}

/*
 * The word is read before the flag rises, and written by the one that sees the flag: a machine may
 * do the load last. Where the flag orders the two, none does.
 */
static void buffer(uint32_t thread)
{
	if (!thread) {
		read[0][0] = atomic_load_relaxed_u32(&x);
		atomic_store_release_u32(&y, 1);
	} else if (atomic_load_acquire_u32(&y)) {
		atomic_store_relaxed_u32(&x, 1);
	}
}

static void buffer_unacquired(uint32_t thread)
{
	if (!thread)
		buffer(thread);
	else if (atomic_load_relaxed_u32(&y))
		atomic_store_relaxed_u32(&x, 1);
}

static void buffer_unreleased(uint32_t thread)
{
	if (thread) {
		buffer(thread);
		return;
	}
	read[0][0] = atomic_load_relaxed_u32(&x);
	atomic_store_relaxed_u32(&y, 1);
}

/* Load buffering, which the model does not show, is a race on what is guarded. */
static void test_guarded(void **state)
{
	void (*const bodies[])(uint32_t thread) = {buffer, buffer_unacquired, buffer_unreleased};

	(void)state;
	sched_on_report(note_report);
	for (uint32_t i = 0; i < 3; i++) {
		const struct litmus litmus = {"", 2, bodies[i], never, false};

		assert_false(explore(&litmus).failed);
		is_x_guarded = true;
		assert_int_equal(explore(&litmus).failed, i > 0);
		/* The guard has ended with the run. */
		is_x_guarded = false;
		assert_false(explore(&litmus).failed);
	}
	sched_on_report(NULL);
}

/* Each order of a message is needed: the outcome comes back with either of the two relaxed. */
static void test_weakened_sites(void **state)
{
	const struct order_site *sites;
	uintptr_t found[8];
	uint32_t count, used = 0;

	(void)state;
	sites = order_sites(&count);
	for (uint32_t i = 0; i < count; i++)
		order_weaken(sites[i].at, false);
	for (uint32_t i = 0; i < count; i++) {
		if (!sites[i].at)
			continue;
		order_weaken(sites[i].at, true);
		if (explore(&litmuses[1]).failed && used < 8)
			found[used++] = sites[i].at;
		order_weaken(sites[i].at, false);
	}
	assert_int_equal(used, 2);
	assert_int_not_equal(found[0], found[1]);
	assert_false(explore(&litmuses[1]).failed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_outcomes),	   cmocka_unit_test(test_model_off),
	    cmocka_unit_test(test_races),	   cmocka_unit_test(test_guarded),
	    cmocka_unit_test(test_weakened_sites),
	};

	quire_platform_install(&sched_platform);
	order_enable(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
