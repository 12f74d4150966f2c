/* Signals and KVM_RUN: handlers wait for its end, masks and faults mean what they mean to KVM. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/preload/check.h"
#include "tests/preload/fake_frontend.h"

static int kvm;
static volatile int handled, in_run, handled_inside, last_code;
static volatile uintptr_t last_value;
static sigjmp_buf landing;

static long run(const struct fake_run *request)
{
	long result;

	in_run = 1;
	result = ioctl(kvm, FAKE_RUN, request);
	in_run = 0;
	return result;
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	handled++;
	last_code = info->si_code;
	last_value = (uintptr_t)info->si_value.sival_ptr;
}

static void set(int signal, void (*function)(int, siginfo_t *, void *), int flags)
{
	struct sigaction act = {.sa_sigaction = function, .sa_flags = flags | SA_SIGINFO};

	CHECK(!sigaction(signal, &act, NULL));
}

static uint64_t runs(void)
{
	struct fake_counts now;

	CHECK(!ioctl(kvm, FAKE_COUNTS, &now));
	return now.runs;
}

/* The next run has begun. A signal that came before would not end it. */
static void wait_for_run(uint64_t before)
{
	while (runs() == before)
		usleep(100);
}

/* One at a time; its thread takes no signal of the process's. */
static struct {
	uint64_t before;
	long microseconds;
} ring;

static void *ring_later(void *unused)
{
	wait_for_run(ring.before);
	usleep((useconds_t)ring.microseconds);
	kill(getpid(), SIGALRM);
	return unused;
}

/* SIGALRM, so long after the next run has begun. */
static void alarm_inside(long microseconds)
{
	sigset_t all, before;
	pthread_t thread;

	ring.before = runs();
	ring.microseconds = microseconds;
	sigfillset(&all);
	CHECK(!pthread_sigmask(SIG_SETMASK, &all, &before));
	CHECK(!pthread_create(&thread, NULL, ring_later, NULL));
	CHECK(!pthread_sigmask(SIG_SETMASK, &before, NULL));
	CHECK(!pthread_detach(thread));
}

static void test_deferred(void)
{
	struct fake_run request = {0};

	set(SIGALRM, on_signal, SA_RESTART);
	for (int sleeps = 0; sleeps < 2; sleeps++) {
		handled = 0;
		request.sleeps = (uint32_t)sleeps;
		alarm_inside(20000);
		CHECK_FAILS(run(&request), EINTR);
		CHECK(handled == 1);
	}
	/* A handler outside of any call of ours runs at once. */
	handled = 0;
	raise(SIGALRM);
	CHECK(handled == 1);
}

static void test_ignored(void)
{
	struct fake_run request = {.sleeps = 1};
	struct timespec start, end;

	set(SIGALRM, on_signal, 0);
	signal(SIGUSR1, SIG_IGN);
	clock_gettime(CLOCK_MONOTONIC, &start);
	alarm_inside(50000);
	raise(SIGUSR1);
	CHECK_FAILS(run(&request), EINTR);
	clock_gettime(CLOCK_MONOTONIC, &end);
	CHECK((end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec > 40000000);
	signal(SIGUSR1, SIG_DFL);
}

struct receiver {
	pthread_t thread;
	uint64_t runs_before;
};

static void *sender(void *opaque)
{
	const struct receiver *receiver = opaque;
	union sigval value = {.sival_ptr = (void *)0x1234};

	wait_for_run(receiver->runs_before);
	usleep(20000);
	pthread_sigqueue(receiver->thread, SIGUSR2, value);
	return NULL;
}

static void test_other_thread(void)
{
	struct fake_run request = {.sleeps = 1};
	struct receiver self = {pthread_self(), runs()};
	pthread_t other;

	set(SIGUSR2, on_signal, 0);
	handled = 0;
	CHECK(!pthread_create(&other, NULL, sender, &self));
	CHECK_FAILS(run(&request), EINTR);
	CHECK(handled == 1 && last_code == SI_QUEUE && last_value == 0x1234);
	pthread_join(other, NULL);
}

static void test_mask(void)
{
	struct fake_run request = {.has_mask = 1, .sleeps = 1};
	struct timespec now = {0};
	sigset_t blocked, before, pending;
	siginfo_t info;

	set(SIGUSR1, on_signal, 0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	CHECK(!pthread_sigmask(SIG_BLOCK, &blocked, &before));
	handled = 0;
	raise(SIGUSR1);
	CHECK_FAILS(run(&request), EINTR);
	/* Blocked outside: it stays pending for sigtimedwait(), as VMMs expect of their kick. */
	CHECK(handled == 0);
	CHECK(!sigpending(&pending) && sigismember(&pending, SIGUSR1));
	CHECK(sigtimedwait(&blocked, &info, &now) == SIGUSR1);
	CHECK(!pthread_sigmask(SIG_SETMASK, &before, &pending));
	CHECK(sigismember(&pending, SIGUSR1));
	/* Blocked inside: the call goes on until another signal. */
	request.mask = UINT64_C(1) << (SIGUSR1 - 1);
	set(SIGALRM, on_signal, 0);
	alarm_inside(30000);
	raise(SIGALRM);
	CHECK_FAILS(run(&request), EINTR);
}

static void on_reset(int signal)
{
	(void)signal;
	handled++;
}

static void test_reset_hand(void)
{
	struct sigaction act = {.sa_handler = on_reset, .sa_flags = SA_RESETHAND}, now;
	struct fake_run request = {.sleeps = 1};

	CHECK(!sigaction(SIGALRM, &act, NULL));
	CHECK(!sigaction(SIGALRM, NULL, &now));
	CHECK(now.sa_handler == on_reset && (now.sa_flags & SA_RESETHAND));
	handled = 0;
	alarm_inside(10000);
	CHECK_FAILS(run(&request), EINTR);
	CHECK(handled == 1);
	CHECK(!sigaction(SIGALRM, NULL, &now) && now.sa_handler == SIG_DFL);
}

static void jump_out(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	handled++;
	siglongjmp(landing, 1);
}

static void test_jump(void)
{
	struct fake_run request = {.sleeps = 1};

	set(SIGALRM, jump_out, 0);
	handled = 0;
	for (volatile int i = 0; i < 3; i++) {
		if (!sigsetjmp(landing, 1)) {
			alarm_inside(10000);
			run(&request);
			CHECK(!"the handler must have jumped");
		}
		CHECK(handled == i + 1);
	}
	/* The thread is outside again: a handler runs at once. */
	if (!sigsetjmp(landing, 1)) {
		raise(SIGALRM);
		CHECK(!"the handler must have jumped");
	}
	CHECK(handled == 4);
}

static void test_faults(void)
{
	char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fake_run request = {.touch = (uintptr_t)hole};
	sigset_t all, before, now;

	/* Our own access: a result, and the client's handler hears nothing. */
	set(SIGSEGV, jump_out, 0);
	handled = 0;
	CHECK_FAILS(run(&request), EFAULT);
	CHECK(handled == 0);
	/* Whatever the client blocks, and it sees what it asked for. */
	sigfillset(&all);
	CHECK(!sigprocmask(SIG_BLOCK, &all, &before));
	CHECK_FAILS(run(&request), EFAULT);
	CHECK(!sigprocmask(SIG_SETMASK, &before, &now));
	CHECK(sigismember(&now, SIGSEGV) && sigismember(&now, SIGUSR1));
	CHECK(!sigprocmask(SIG_SETMASK, NULL, &now) && !sigismember(&now, SIGSEGV));
	/* The client's own access. */
	if (!sigsetjmp(landing, 1)) {
		*(volatile char *)hole = 1;
		CHECK(!"a touch must raise SIGSEGV");
	}
	CHECK(handled == 1);
	signal(SIGSEGV, SIG_DFL);
	munmap(hole, 4096);
}

static void test_blocked_in_fault(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fake_run request = {.touch = (uintptr_t)page};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		printf("  not tested: no userfaultfd here\n");
		return;
	}
	range.range.start = (uintptr_t)page;
	range.range.len = 4096;
	CHECK(!ioctl(fd, UFFDIO_REGISTER, &range));
	set(SIGALRM, on_signal, SA_RESTART);
	for (int i = 0; i < 20; i++) {
		handled = 0;
		alarm_inside(2000);
		CHECK_FAILS(run(&request), EINTR);
		CHECK(handled == 1);
	}
	close(fd);
	munmap(page, 4096);
}

struct cancel_case {
	struct fake_run request;
	int state, type;
};

static void *canceled(void *argument)
{
	struct cancel_case *asked = argument;

	pthread_setcanceltype(asked->type, NULL);
	pthread_setcancelstate(asked->state, NULL);
	ioctl(kvm, FAKE_RUN, &asked->request);
	handled_inside = 1;
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	for (;;)
		pause();
	return NULL;
}

static pthread_t start_canceled(struct cancel_case *asked)
{
	uint64_t before = runs();
	pthread_t thread;

	handled_inside = 0;
	CHECK(!pthread_create(&thread, NULL, canceled, asked));
	wait_for_run(before);
	usleep(20000);
	CHECK(!pthread_cancel(thread));
	return thread;
}

static void join_canceled(pthread_t thread)
{
	void *result;

	CHECK(!pthread_join(thread, &result) && result == PTHREAD_CANCELED);
}

/* Asynchronous: KVM_RUN ends, whether it runs or sleeps, and the thread with it. */
static void test_cancel(void)
{
	struct cancel_case asked = {.type = PTHREAD_CANCEL_ASYNCHRONOUS};

	for (uint32_t sleeps = 0; sleeps < 2; sleeps++) {
		asked.request.sleeps = sleeps;
		join_canceled(start_canceled(&asked));
		CHECK(!handled_inside);
	}
}

/* Deferred or switched off: nothing happens inside, a signal must end the call. */
static void test_cancel_later(void)
{
	struct cancel_case cases[] = {
	    {.type = PTHREAD_CANCEL_DEFERRED},
	    {.state = PTHREAD_CANCEL_DISABLE, .type = PTHREAD_CANCEL_ASYNCHRONOUS},
	};

	set(SIGUSR1, on_signal, 0);
	for (int i = 0; i < 2; i++) {
		pthread_t thread;

		cases[i].request.sleeps = 1;
		handled = 0;
		thread = start_canceled(&cases[i]);
		usleep(30000);
		CHECK(!handled_inside);
		CHECK(!pthread_kill(thread, SIGUSR1));
		join_canceled(thread);
		CHECK(handled == 1 && handled_inside == 1);
	}
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void test_storm(void)
{
	struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
	struct fake_run request = {.sleeps = 0};
	long start_ms = now_ms(), went_ms;
	int ended = 0;

	set(SIGALRM, on_signal, SA_RESTART);
	handled = 0;
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	do {
		int before = handled;

		request.sleeps = !request.sleeps;
		CHECK_FAILS(run(&request), EINTR);
		CHECK(handled > before);
		ended++;
		went_ms = now_ms() - start_ms;
		/* A slow machine gets longer. */
	} while (went_ms < 500 || (ended <= 100 && went_ms < 20000));
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	CHECK(ended > 100);
}

static void test_reported_actions(void)
{
	struct sigaction act = {.sa_handler = on_reset, .sa_flags = SA_NODEFER}, old;

	sigemptyset(&act.sa_mask);
	sigaddset(&act.sa_mask, SIGSEGV);
	CHECK(!sigaction(SIGUSR1, &act, NULL));
	CHECK(!sigaction(SIGUSR1, NULL, &old));
	CHECK(old.sa_handler == on_reset && old.sa_flags & SA_NODEFER);
	CHECK(sigismember(&old.sa_mask, SIGSEGV));
	CHECK(signal(SIGUSR1, SIG_IGN) == on_reset && signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	CHECK_FAILS(sigaction(SIGKILL, &act, NULL), EINVAL);
	CHECK_FAILS(sigaction(0, &act, NULL), EINVAL);
}

/* The program that exec starts: what it inherits. */
static int check_inherited(void)
{
	struct sigaction action;
	sigset_t mask;

	CHECK(!sigaction(SIGSEGV, NULL, &action) && action.sa_handler == SIG_IGN);
	CHECK(!sigaction(SIGBUS, NULL, &action) && action.sa_handler == SIG_DFL);
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &mask));
	CHECK(sigismember(&mask, SIGBUS) && !sigismember(&mask, SIGSEGV));
	return 0;
}

static void test_exec(void)
{
	char *argv[] = {"/proc/self/exe", "inherited", NULL};
	char *none[] = {"/nowhere", NULL};
	struct sigaction action;
	sigset_t mask;
	pid_t pid = fork();
	int status;

	if (!pid) {
		sigemptyset(&mask);
		sigaddset(&mask, SIGBUS);
		signal(SIGSEGV, SIG_IGN);
		signal(SIGBUS, SIG_DFL);
		CHECK(!sigprocmask(SIG_BLOCK, &mask, NULL));
		CHECK_FAILS(execv(none[0], none), ENOENT);
		CHECK(!sigaction(SIGSEGV, NULL, &action) && action.sa_handler == SIG_IGN);
		execv(argv[0], argv);
		_exit(99);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
	    {"deferred", test_deferred},
	    {"ignored", test_ignored},
	    {"other thread", test_other_thread},
	    {"mask", test_mask},
	    {"reset hand", test_reset_hand},
	    {"jump", test_jump},
	    {"faults", test_faults},
	    {"blocked in a fault", test_blocked_in_fault},
	    {"cancel", test_cancel},
	    {"cancel later", test_cancel_later},
	    {"storm", test_storm},
	    {"reported actions", test_reported_actions},
	    {"exec", test_exec},
	};

	if (argc > 1 && !strcmp(argv[1], "inherited"))
		return check_inherited();
	/* Set before /dev/kvm is opened: must be taken over. */
	set(SIGALRM, on_signal, SA_RESTART);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0);
	run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc > 1 ? argv[1] : NULL);
	return 0;
}
