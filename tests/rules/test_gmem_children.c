/* What children of a client see of a guest_memfd that is converted in place. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "gmem_convert.h"

static uint32_t is_over;

static void *hold_libcs_locks(void *unused)
{
	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED))
		free(malloc(100000));
	return unused;
}

/* What a child of @generations forks sees of page 2, step by step. */
static void child_sees(unsigned int generations)
{
	pid_t grandchild = generations > 1 ? fork() : 0;
	int status = 0;

	CHECK(grandchild >= 0);
	if (grandchild) {
		CHECK_EQ(waitpid(grandchild, &status, 0), grandchild);
		_exit(status != 0);
	}
	CHECK_EQ(touch(2), 0);
	__atomic_store_n(&steps->is_traced, 1, __ATOMIC_SEQ_CST);
	CHECK(comes(&steps->is_stopped, 20000));
	CHECK_EQ(touch(2), SIGBUS);
	__atomic_store_n(&steps->is_traced, 0, __ATOMIC_SEQ_CST);
	CHECK(comes(&steps->is_replaced, 20000));
	CHECK_EQ(*word_at(seen, 2 * PAGE), 77);
	*word_at(seen, 2 * PAGE) = 78;
	_exit(0);
}

static void check_child(unsigned int generations)
{
	int status;
	pid_t child;

	memset(steps, 0, sizeof(*steps));
	make(0, PAGES, 0);
	*word_at(seen, 2 * PAGE) = 77;
	child = fork();
	CHECK(child >= 0);
	if (!child)
		child_sees(generations);
	CHECK(comes(&steps->is_traced, 20000));
	make(2, 1, PRIVATE);
	__atomic_store_n(&steps->is_stopped, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < 20000 && __atomic_load_n(&steps->is_traced, __ATOMIC_SEQ_CST); i++)
		usleep(1000);
	make(2, 1, 0);
	__atomic_store_n(&steps->is_replaced, 1, __ATOMIC_SEQ_CST);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(status, 0);
	CHECK_EQ(*word_at(seen, 2 * PAGE), 78);
}

/* A child's mappings, and its children's, show what is shared, and raise SIGBUS where it is not. */
static void a_childs_mappings(void)
{
	open_shown(SHARED);
	steps_open();
	check_child(1);
	check_child(2);
}

/* Children that are no more, or are other programs, hold no conversion up. */
static void children_that_end(void)
{
	int status, ends[2];
	pid_t child;

	open_shown(SHARED);
	CHECK_ZERO(pipe(ends));
	for (unsigned int round = 0; round < 100; round++) {
		child = fork();
		CHECK(child >= 0);
		if (!child) {
			CHECK_EQ(dup2(ends[0], 0), 0);
			close(ends[1]);
			execl(round % 3 ? "/bin/true" : "/bin/cat", "", (char *)NULL);
			_exit(1);
		}
		make(1, 2, round & 1 ? 0 : PRIVATE);
		if (round % 3)
			CHECK_EQ(waitpid(child, &status, 0), child);
	}
	make(1, 2, PRIVATE);
	CHECK_EQ(touch(2), SIGBUS);
}

/* As many as there may be come and go while nothing is converted: the next one follows, too. */
static void children_that_end_unheard(void)
{
	open_shown(SHARED);
	steps_open();
	for (unsigned int round = 0; round < 70; round++) {
		pid_t child = fork();
		int status;

		CHECK(child >= 0);
		if (!child && round & 1)
			execl("/bin/true", "", (char *)NULL);
		if (!child)
			_exit(touch(2));
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
	}
	check_child(1);
}

/*
 * Children that the client's libc has not made, among threads that hold its locks: with ours in the
 * same libc no thread can be begun there. They see no private page, and none waits for ever.
 */
static void children_without_libc(void)
{
	pthread_t thread;
	int status;

	open_shown(SHARED);
	steps_open();
	is_over = 0;
	CHECK_ZERO(pthread_create(&thread, NULL, hold_libcs_locks, NULL));
	for (unsigned int round = 0; round < 200; round++) {
		pid_t child = round & 1 ? _Fork() : (pid_t)syscall(SYS_fork);

		CHECK(child >= 0);
		if (!child) {
			(void)comes(&steps->is_stopped, 20000);
			_exit(touch(2) != SIGBUS);
		}
		make(2, 1, PRIVATE);
		__atomic_store_n(&steps->is_stopped, 1, __ATOMIC_SEQ_CST);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(status, 0);
		__atomic_store_n(&steps->is_stopped, 0, __ATOMIC_SEQ_CST);
		make(2, 1, 0);
		CHECK_EQ(touch(2), 0);
	}
	__atomic_store_n(&is_over, 1, __ATOMIC_RELAXED);
	CHECK_ZERO(pthread_join(thread, NULL));
}

/* One that is stopped may still look: a page that it maps becomes private once it has gone on. */
static void a_child_that_is_stopped(void)
{
	struct kvm_memory_attributes2 request = {.size = PAGE, .attributes = PRIVATE};
	int status;
	pid_t child;

	open_shown(SHARED);
	steps_open();
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		__atomic_store_n(&steps->is_traced, 1, __ATOMIC_SEQ_CST);
		for (;;)
			pause();
	}
	CHECK(comes(&steps->is_traced, 20000));
	CHECK_ZERO(kill(child, SIGSTOP));
	CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
	CHECK_ERR(ioctl(file, KVM_SET_MEMORY_ATTRIBUTES2, &request), EAGAIN);
	CHECK_EQ(request.error_offset, 0);
	CHECK_EQ(touch(0), 0);
	CHECK_ZERO(kill(child, SIGCONT));
	make(0, 1, PRIVATE);
	CHECK_EQ(touch(0), SIGBUS);
	CHECK_ZERO(kill(child, SIGKILL));
	CHECK_EQ(waitpid(child, &status, 0), child);
}

int main(int argc, char **argv)
{
	static const struct check_test tests[] = {
	    TEST(a_childs_mappings),	     TEST(children_that_end),
	    TEST(children_that_end_unheard), TEST(children_without_libc),
	    TEST(a_child_that_is_stopped),
	};

	return check_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
