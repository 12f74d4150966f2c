/* The scheduler's verdicts: a run that ends, and those that end early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <quire/platform.h>

#include "hosts/sim/sched.h"
#include "src/base/assert.h"

static unsigned int reports, steps;
static char first[256];

static void note_report(const char *text)
{
	if (!reports++)
		strncpy(first, text, sizeof(first) - 1);
}

static void begin(void)
{
	reports = steps = 0;
	quire_platform_install(&sched_platform);
	sched_on_report(note_report);
}

static void counting_body(uint32_t thread, void *ctx)
{
	sched_yield_point();
	steps++;
}

static void test_done(void **state)
{
	struct sched_run run = {.threads = 2, .body = counting_body};

	begin();
	sched_execute(&run);
	assert_int_equal(run.result, SCHED_DONE);
	assert_int_equal(steps, 2);
	assert_int_equal(reports, 0);
}

static void breaking_body(uint32_t thread, void *ctx)
{
	uint32_t seen = 1;

	(void)BROKEN(seen == 2);
	steps++;
	(void)BROKEN(seen == 3);
}

/* What breaks first explains the rest: nothing runs after it, in this thread or another. */
static void test_broken(void **state)
{
	struct sched_run run = {.threads = 2, .body = breaking_body};

	begin();
	sched_execute(&run);
	assert_int_equal(run.result, SCHED_BROKEN);
	assert_int_equal(steps, 0);
	assert_int_equal(reports, 1);
	assert_non_null(strstr(first, "seen == 2"));
}

static void waiting_body(uint32_t thread, void *ctx)
{
	static const uint32_t word = 1;

	sched_platform.wait(&word, 1);
}

static void test_deadlock(void **state)
{
	struct sched_run run = {.threads = 2, .body = waiting_body};

	begin();
	sched_execute(&run);
	assert_int_equal(run.result, SCHED_DEADLOCK);
}

static uint32_t waited_for;

/* Thread 0 waits until thread 1 has changed the word; @ctx says whether that wakes it. */
static void changing_body(uint32_t thread, void *ctx)
{
	const bool *wakes = ctx;

	if (thread == 0) {
		sched_platform.wait(&waited_for, 0);
		return;
	}
	sched_yield_point();
	waited_for = 1;
	if (*wakes)
		sched_platform.wake(&waited_for, 1);
}

/* A waiter that is not woken sleeps on, whatever its word is: a wake that is lost is a deadlock. */
static void test_wake(void **state)
{
	struct sched_run run = {.threads = 2, .body = changing_body};
	bool wakes = false;

	run.ctx = &wakes;
	begin();
	waited_for = 0;
	sched_execute(&run);
	assert_int_equal(run.result, SCHED_DEADLOCK);
	wakes = true;
	waited_for = 0;
	sched_execute(&run);
	assert_int_equal(run.result, SCHED_DONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_done),
	    cmocka_unit_test(test_broken),
	    cmocka_unit_test(test_deadlock),
	    cmocka_unit_test(test_wake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
