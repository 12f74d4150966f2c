/* Every function of <quire/process.h> with every system call that it makes failing once, and with
 * it every allocation: an error or success, what was before, nothing left over, and again it
 * works. A load and a store stop at each reason that an access may have. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include <quire/process.h>

#include "hosts/process/process.h"
#include "tests/rules/lib/nth_gate.h"
#include "tests/rules/lib/nth_names.h"

#define PAGES 4u
#define BYTES (PAGES * QUIRE_PAGE_SIZE)
#define FUNCTIONS 11u
#define EVERY_CALL UINT32_MAX
#define KICK 0

/* Which of the library's system calls fail. */
static struct {
	int is_armed;
	uint32_t calls, fail_at; /* EVERY_CALL: all fail */
	int error;
	long failed; /* the number of the call that did; -1: none */
} failure;

static long error_of(long number)
{
	if (!failure.is_armed ||
	    (++failure.calls != failure.fail_at && failure.fail_at != EVERY_CALL))
		return 0;
	failure.failed = number;
	return failure.error;
}

/* --- the functions --- */

static void *cookie;
static struct quire_process_vcpu vcpu;

static int signals_handled(void)
{
	const int signals[] = {SIGSEGV, SIGBUS, quire_process_kick_signal()};
	int count = 0;

	for (uint32_t i = 0; i < 3; i++) {
		struct sigaction action;

		assert_int_equal(sigaction(signals[i], NULL, &action), 0);
		count += action.sa_handler != SIG_DFL;
	}
	return count;
}

static void handlers_go(void)
{
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(quire_process_kick_signal(), SIG_DFL);
}

static uint64_t handlers_state(void)
{
	return (uint64_t)signals_handled();
}

static int create(void)
{
	return quire_process_memory_create(BYTES, &cookie);
}

static int create_huge(void)
{
	return quire_process_memory_create_huge(UINT64_C(4) << 21, UINT64_C(1) << 21, &cookie);
}

static int create_gigantic(void)
{
	return quire_process_memory_create_huge(UINT64_C(1) << 30, UINT64_C(1) << 30, &cookie);
}

/* So many pages that what is kept of each is a mapping of its own. */
static int create_many_huge(void)
{
	return quire_process_memory_create_huge(UINT64_C(1) << 38, UINT64_C(1) << 21, &cookie);
}

static int free_memory(void)
{
	quire_process_memory_free(cookie);
	cookie = NULL;
	return 0;
}

static void need_memory(void)
{
	assert_int_equal(create_huge(), 0);
}

static void memory_goes(void)
{
	if (cookie)
		free_memory();
}

static uint64_t memory_state(void)
{
	return nth_gate_shared_bytes() + process_bytes_allocated();
}

static int begin(void)
{
	quire_process_vcpu_begin(&vcpu);
	return vcpu.thread != (uint32_t)gettid();
}

static int end(void)
{
	quire_process_vcpu_end(&vcpu);
	return vcpu.thread != 0;
}

static void need_vcpu(void)
{
	assert_int_equal(begin(), 0);
}

static uint64_t vcpu_state(void)
{
	return vcpu.thread;
}

static int tell_changed(void)
{
	quire_process_mappings_changed();
	return 0;
}

static int ask_signal(void)
{
	return quire_process_kick_signal() != SIGRTMAX - 1;
}

static int ask_host(void)
{
	return quire_process_host() != &process_host_ops;
}

static uint64_t no_state(void)
{
	return 0;
}

static const struct row {
	const char *function;
	void (*setup)(void); /* NULL: nothing need be there */
	int (*call)(void);
	uint64_t (*state)(void);
	void (*undo)(void);
	uint32_t calls_least; /* of the kernel */
} rows[] = {
    {"quire_process_start", handlers_go, quire_process_start, handlers_state, handlers_go, 3},
    {"quire_process_memory_create", NULL, create, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_huge, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_gigantic, memory_state, memory_goes, 3},
    {"quire_process_memory_create_huge", NULL, create_many_huge, memory_state, memory_goes, 4},
    {"quire_process_memory_free", need_memory, free_memory, memory_state, memory_goes, 0},
    {"quire_process_vcpu_begin", NULL, begin, vcpu_state, NULL, 0},
    {"quire_process_vcpu_end", need_vcpu, end, vcpu_state, NULL, 0},
    {"quire_process_mappings_changed", NULL, tell_changed, no_state, NULL, 0},
    {"quire_process_kick_signal", NULL, ask_signal, no_state, NULL, 0},
    {"quire_process_host", NULL, ask_host, no_state, NULL, 0},
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static int call_with(const struct row *row, uint32_t fail_at, int error)
{
	int result;

	failure.calls = 0;
	failure.fail_at = fail_at;
	failure.error = error;
	failure.failed = -1;
	failure.is_armed = 1;
	result = row->call();
	failure.is_armed = 0;
	return result;
}

static void told(const struct row *row, uint32_t number, const char *what)
{
	fail_msg("%s, call %u (of system call %ld): %s", row->function, number, failure.failed,
		 what);
}

/* Error: what was before. Again: as if nothing had failed. At the end nothing is left. */
static void fail_one(const struct row *row, uint32_t number, int error)
{
	uint64_t first = row->state(), before;
	int result;

	if (row->setup)
		row->setup();
	before = row->state();
	result = call_with(row, number, error);
	if (number != EVERY_CALL && failure.failed < 0)
		told(row, number, "made fewer calls than before");
	if (result > 0 || (result < 0 && result != error && result != -ENOMEM))
		told(row, number, "an answer that nothing explains");
	if (result && row->state() != before)
		told(row, number, "an error that changed the state");
	if (result && call_with(row, 0, 0))
		told(row, number, "fails again, without a failure");
	if (row->undo) {
		row->undo();
		if (row->state() != first)
			told(row, number, "something is left over");
	}
}

static uint32_t count_calls(const struct row *row)
{
	nth_gate_use_memory_up();
	if (row->setup)
		row->setup();
	if (call_with(row, 0, 0))
		told(row, 0, "fails by itself");
	if (row->undo)
		row->undo();
	return failure.calls;
}

static void explore(const struct row *row)
{
	static const int errors[] = {-ENOMEM, -EINVAL, -EPERM};
	uint32_t calls = count_calls(row);

	if (calls < row->calls_least || (calls && !row->calls_least))
		told(row, calls, "made another number of calls than it should");
	for (uint32_t number = 1; number <= calls; number++)
		for (uint32_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
			nth_gate_use_memory_up();
			fail_one(row, number, errors[i]);
		}
	nth_gate_use_memory_up();
	fail_one(row, EVERY_CALL, -ENOMEM);
}

static void test_calls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ROWS; i++)
		explore(&rows[i]);
	assert_int_equal(nth_gate_shared_bytes(), 0);
}

/* A new thread asks the kernel for nothing that it may refuse. */
static void *begin_in_thread(void *arg)
{
	*(int *)arg = call_with(&(const struct row){.call = begin}, EVERY_CALL, -EPERM);
	return NULL;
}

static void test_vcpu_in_a_new_thread(void **state)
{
	pthread_t thread;
	int result = -1;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, begin_in_thread, &result), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(result, 0);
}

/* What stops an access at a page that is not to be accessed, in place of the SIGSEGV. */
static const struct stop {
	int signal; /* KICK: that of quire_process_kick_signal() */
	int code, error;
} stops[] = {
    {SIGSEGV, SEGV_ACCERR, -EFAULT},
    {SIGBUS, BUS_ADRERR, -EFAULT},
    {SIGBUS, BUS_MCEERR_AR, -EHWPOISON},
    {KICK, SI_TKILL, -EINTR},
};
#define STOPS (sizeof(stops) / sizeof(stops[0]))

static const struct stop *stop;		/* now */
static struct sigaction library_action; /* of SIGSEGV */

static int stop_signal(void)
{
	return stop->signal == KICK ? quire_process_kick_signal() : stop->signal;
}

/* The library's handler of the signal is told of it with the machine state of the access. */
static void hand_on(int signal, siginfo_t *info, void *context)
{
	siginfo_t other = {
	    .si_signo = stop_signal(), .si_code = stop->code, .si_addr = info->si_addr};
	struct sigaction action;

	(void)signal;
	sigaction(other.si_signo, NULL, &action);
	if (other.si_signo == SIGSEGV)
		action = library_action;
	action.sa_sigaction(other.si_signo, &other, context);
}

static void stand_before_library(void)
{
	struct sigaction action = {.sa_sigaction = hand_on, .sa_flags = SA_SIGINFO};

	assert_int_equal(quire_process_start(), 0);
	assert_int_equal(sigaction(SIGSEGV, &action, &library_action), 0);
}

/* Page @gone stops the copy: what comes before it was copied, and nothing else. */
static void copy_without(uint8_t *memory, uint32_t gone, int stores)
{
	static uint8_t own[BYTES];
	uint8_t *from = stores ? own : memory, *to = stores ? memory : own;
	uint64_t copied = gone * QUIRE_PAGE_SIZE, physical = (uint64_t)(uintptr_t)memory;
	int error;

	memset(from, 1, BYTES);
	memset(to, 2, BYTES);
	assert_int_equal(mprotect(memory + copied, QUIRE_PAGE_SIZE, PROT_NONE), 0);
	failure.fail_at = EVERY_CALL;
	failure.is_armed = 1;
	error = stores ? quire_process_store(physical, own, BYTES)
		       : quire_process_load(physical, own, BYTES);
	failure.is_armed = 0;
	assert_int_equal(error, stop->error);
	assert_int_equal(mprotect(memory + copied, QUIRE_PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
	for (uint64_t at = 0; at < BYTES; at++)
		assert_int_equal(to[at], at < copied ? 1 : 2);
	assert_int_equal(stores ? quire_process_store(physical, own, BYTES)
				: quire_process_load(physical, own, BYTES),
			 0);
	assert_memory_equal(to, from, BYTES);
}

static void test_load_and_store(void **state)
{
	uint8_t *memory =
	    mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_true(memory != MAP_FAILED);
	stand_before_library();
	for (stop = stops; stop < stops + STOPS; stop++)
		for (uint32_t gone = 0; gone < PAGES; gone++) {
			copy_without(memory, gone, 0);
			copy_without(memory, gone, 1);
		}
	handlers_go();
	assert_int_equal(munmap(memory, BYTES), 0);
}

/* <quire/types.h> */
static void test_nulls(void **state)
{
	uint8_t byte = 0;

	(void)state;
	assert_int_equal(quire_process_memory_create(BYTES, NULL), -EINVAL);
	assert_int_equal(
	    quire_process_memory_create_huge(UINT64_C(1) << 21, UINT64_C(1) << 21, NULL), -EINVAL);
	assert_int_equal(quire_process_load((uint64_t)(uintptr_t)&byte, NULL, 1), -EINVAL);
	assert_int_equal(quire_process_store((uint64_t)(uintptr_t)&byte, NULL, 1), -EINVAL);
	assert_int_equal(quire_process_load((uint64_t)(uintptr_t)&byte, NULL, 0), 0);
	assert_int_equal(quire_process_store((uint64_t)(uintptr_t)&byte, NULL, 0), 0);
}

static int is_tried(const char *function)
{
	for (size_t i = 0; i < ROWS; i++)
		if (!strcmp(rows[i].function, function))
			return 1;
	/* By test_load_and_store(). */
	return !strcmp(function, "quire_process_load") || !strcmp(function, "quire_process_store");
}

static void test_every_public_function(void **state)
{
	(void)state;
	nth_names_are_tried("QUIRE_PROCESS_MAP", is_tried, FUNCTIONS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_calls),
	    cmocka_unit_test(test_vcpu_in_a_new_thread),
	    cmocka_unit_test(test_load_and_store),
	    cmocka_unit_test(test_nulls),
	    cmocka_unit_test(test_every_public_function),
	};

	nth_gate_install(error_of);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
