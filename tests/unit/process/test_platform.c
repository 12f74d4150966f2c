/* The platform: records of threads over their lives and over fork, waiting, runners. */
#include "tests/unit/process/support.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "hosts/process/internal.h"

static struct quire_thread *self(void)
{
	return process_platform.self();
}

static void *self_of_thread(void *argument)
{
	struct quire_thread *first = self();

	return first == self() && !first->epoch && !first->nesting ? first : NULL;
}

static struct quire_thread *record_of_new_thread(void)
{
	pthread_t thread;
	void *record;

	assert_int_equal(pthread_create(&thread, NULL, self_of_thread, NULL), 0);
	assert_int_equal(pthread_join(thread, &record), 0);
	assert_non_null(record);
	return record;
}

static void records_are_reused(void **state)
{
	struct quire_thread *own = self(), *first = record_of_new_thread();

	assert_ptr_equal(self(), own);
	assert_ptr_not_equal(first, own);
	for (int i = 0; i < 100; i++)
		assert_ptr_equal(record_of_new_thread(), first);
}

static pthread_barrier_t all_there;

static void *self_with_others(void *argument)
{
	struct quire_thread *record = self();

	__atomic_store_n(&record->epoch, 7, __ATOMIC_RELEASE);
	record->nesting = 1;
	pthread_barrier_wait(&all_there);
	pthread_barrier_wait(&all_there);
	return record;
}

/* More threads than the first arena has records. */
static void threads_have_records_of_their_own(void **state)
{
	enum { THREADS = 600 };
	static pthread_t threads[THREADS];
	static struct quire_thread *records[THREADS];
	pthread_attr_t attributes;
	int status;
	pid_t child;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 << 10);
	pthread_barrier_init(&all_there, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], &attributes, self_with_others, NULL),
				 0);
	pthread_barrier_wait(&all_there);
	/* All of them stand in a read section now; in a child none does. */
	self()->epoch = 9;
	child = fork();
	if (!child) {
		unsigned int inside = 0;

		for (const struct quire_thread *at = self(); at; at = at->next)
			inside += at != self() && (at->epoch || at->nesting);
		_exit(self()->epoch == 9 && !inside ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	self()->epoch = 0;
	pthread_barrier_wait(&all_there);
	for (int i = 0; i < THREADS; i++) {
		void *record;

		pthread_join(threads[i], &record);
		records[i] = record;
		for (int j = 0; j < i; j++)
			assert_ptr_not_equal(records[j], record);
		assert_ptr_not_equal(record, self());
		assert_int_equal(records[i]->epoch, 0);
		assert_int_equal(records[i]->nesting, 0);
	}
	pthread_barrier_destroy(&all_there);
}

static void *hold_allocator(void *argument)
{
	const uint32_t *stop = argument;

	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		void *mem = process_host_ops.alloc(NULL, 64);

		process_host_ops.free(NULL, mem, 64);
	}
	return NULL;
}

/* A child must never find a lock of ours held by a thread that it does not have. */
static void fork_finds_no_lock_held(void **state)
{
	uint32_t stop = 0;
	pthread_t thread;
	int status;

	assert_int_equal(pthread_create(&thread, NULL, hold_allocator, &stop), 0);
	for (int i = 0; i < 50; i++) {
		pid_t child = fork();

		if (!child) {
			alarm(50);
			process_host_ops.free(NULL, process_host_ops.alloc(NULL, 64), 64);
			_exit(record_of_new_thread() ? 0 : 1);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
}

static uint32_t wait_word;

static void *wait_for_word(void *argument)
{
	while (!__atomic_load_n(&wait_word, __ATOMIC_ACQUIRE))
		process_platform.wait(&wait_word, 0);
	return NULL;
}

static void waiters_are_woken(void **state)
{
	pthread_t threads[3];

	process_platform.wait(&wait_word, 1); /* has another value: returns at once */
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_for_word, NULL), 0);
	usleep(20000);
	__atomic_store_n(&wait_word, 1, __ATOMIC_RELEASE);
	process_platform.wake(&wait_word, UINT32_MAX);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	for (unsigned int turn = 0; turn < 1100; turn++)
		process_platform.relax(turn);
}

struct lock_user {
	struct process_lock *lock;
	uint64_t *count;
};

static void *count_under_lock(void *argument)
{
	const struct lock_user *user = argument;

	for (int i = 0; i < 50000; i++) {
		process_lock_acquire(user->lock);
		++*user->count;
		process_lock_release(user->lock);
	}
	return NULL;
}

static void lock_excludes(void **state)
{
	struct process_lock lock = {0};
	uint64_t count = 0;
	struct lock_user user = {&lock, &count};
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, count_under_lock, &user);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(count, 200000);
	assert_int_equal(lock.taken, 0);
}

static void runner_knows_its_thread(void **state)
{
	struct process_runner runner = {0};
	pid_t child;
	int status;

	process_runner_enter(&runner);
	assert_int_equal(runner.tid, gettid());
	process_runner_leave(&runner);
	assert_int_equal(runner.tid, 0);
	child = fork();
	if (!child) {
		process_runner_enter(&runner);
		_exit(runner.tid == (uint32_t)gettid() ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* A kick outside guarded accesses does nothing, whatever the thread does. */
static void stray_kicks_do_nothing(void **state)
{
	const struct timespec nap = {.tv_nsec = 1000000};
	struct process_runner runner = {0};

	handle_signals();
	process_runner_enter(&runner);
	for (int i = 0; i < 10; i++)
		process_host_ops.kick(NULL, &runner);
	assert_int_equal(nanosleep(&nap, NULL), 0);
	process_runner_leave(&runner);
}

static void reports_are_lines(void **state)
{
	int ends[2], saved = dup(2);
	char text[1024];
	char long_text[2000];
	ssize_t got;

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(dup2(ends[1], 2), 2);
	process_platform.report("something broke");
	got = read(ends[0], text, sizeof(text));
	memset(long_text, 'x', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = '\0';
	process_platform.report(long_text);
	dup2(saved, 2);
	assert_int_equal(got, 16);
	assert_memory_equal(text, "something broke\n", 16);
	got = read(ends[0], text, sizeof(text));
	assert_int_equal(got, 512);
	assert_int_equal(text[511], '\n');
	close(saved);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(records_are_reused),
	    cmocka_unit_test(threads_have_records_of_their_own),
	    cmocka_unit_test(fork_finds_no_lock_held),
	    cmocka_unit_test(waiters_are_woken),
	    cmocka_unit_test(lock_excludes),
	    cmocka_unit_test(runner_knows_its_thread),
	    cmocka_unit_test(stray_kicks_do_nothing),
	    cmocka_unit_test(reports_are_lines),
	};

	return cmocka_run_group_tests(tests, install_platform, NULL);
}
