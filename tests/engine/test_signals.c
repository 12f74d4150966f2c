/*
 * Signals of a static program on the engine: every call that takes a mask or a stack, each with
 * SIGSYS in the mask and with a handler that makes calls which are trapped. What passes here
 * passes without Quire.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define EPOLL_PWAIT2 441

static volatile sig_atomic_t handled;
static volatile uint8_t *volatile handler_tells; /* a byte that is 1 once it has run */

/* Calls that the engine serves, and one that it forwards. */
static void make_trapped_calls(void)
{
	sigset_t mask;
	void *page;

	CHECK(open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED && !munmap(page, 4096));
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &mask));
}

static void on_signal(int signal)
{
	(void)signal;
	handled++;
	make_trapped_calls();
	if (handler_tells)
		*handler_tells = 1;
}

/* A handler with everything blocked in it. */
static void handle(int signal, int flags)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};

	memset(&action.sa_mask, 0xff, sizeof(action.sa_mask));
	CHECK(!sigaction(signal, &action, NULL));
	handled = 0;
}

static void everything_but(sigset_t *set, int signal)
{
	memset(set, 0xff, sizeof(*set));
	sigdelset(set, signal);
}

/* SIGALRM soon, blocked until a call lets it in. */
static void alarm_blocked(void)
{
	const struct itimerval soon = {.it_value.tv_usec = 20000};
	sigset_t all;

	handle(SIGALRM, 0);
	sigfillset(&all);
	CHECK(!sigprocmask(SIG_SETMASK, &all, NULL));
	CHECK(!setitimer(ITIMER_REAL, &soon, NULL));
}

static void check_waited(long result, int error)
{
	sigset_t now, none;

	CHECK(result == -1 && error == EINTR);
	CHECK(handled == 1);
	make_trapped_calls();
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &now));
	CHECK(sigismember(&now, SIGALRM) && sigismember(&now, SIGSYS) &&
	      sigismember(&now, SIGSEGV));
	sigemptyset(&none);
	CHECK(!sigprocmask(SIG_SETMASK, &none, NULL));
}

static void test_masks(void)
{
	sigset_t all, none, now;

	memset(&all, 0xff, sizeof(all));
	sigemptyset(&none);
	CHECK(!sigprocmask(SIG_SETMASK, &all, &now));
	CHECK(!sigismember(&now, SIGSYS) && !sigismember(&now, SIGUSR1));
	make_trapped_calls();
	CHECK(!sigprocmask(SIG_SETMASK, &none, &now));
	for (int signal = 1; signal < 32; signal++)
		CHECK(sigismember(&now, signal) == (signal != SIGKILL && signal != SIGSTOP));
	CHECK_FAILS(syscall(SYS_rt_sigprocmask, 7, &all, NULL, 8), EINVAL);
	CHECK_FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &all, NULL, 16), EINVAL);
	CHECK_FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8), EFAULT);
}

static void test_actions(void)
{
	struct sigaction action, old;

	handle(SIGUSR1, SA_RESTART);
	CHECK(!sigaction(SIGUSR1, NULL, &old));
	CHECK(old.sa_handler == on_signal && (old.sa_flags & SA_RESTART));
	CHECK(sigismember(&old.sa_mask, SIGSYS) && sigismember(&old.sa_mask, SIGUSR2));
	CHECK(!raise(SIGUSR1) && handled == 1);
	handle(SIGUSR1, SA_RESETHAND);
	CHECK(!raise(SIGUSR1) && handled == 1);
	CHECK(!sigaction(SIGUSR1, NULL, &old) && old.sa_handler == SIG_DFL);
	action.sa_handler = SIG_IGN;
	CHECK(!sigaction(SIGSYS, &action, NULL));
	make_trapped_calls();
	CHECK_FAILS(syscall(SYS_rt_sigaction, SIGKILL, &action, NULL, 8), EINVAL);
	CHECK_FAILS(syscall(SYS_rt_sigaction, 65, NULL, &action, 8), EINVAL);
	CHECK_FAILS(syscall(SYS_rt_sigaction, SIGUSR1, NULL, (void *)8, 8), EFAULT);
}

/* The time is looked at before the mask. */
static void test_two_mistakes(int epoll)
{
	const struct {
		long mask, size_bytes;
	} short_pair = {8, 4}, lost_pair = {8, 8};
	const struct timespec never = {.tv_nsec = 1000000000};
	struct epoll_event event;

	CHECK_FAILS(syscall(SYS_ppoll, NULL, 0, 8L, 8L, 4L), EFAULT);
	CHECK_FAILS(syscall(SYS_ppoll, NULL, 0, &never, 8L, 8L), EINVAL);
	CHECK_FAILS(syscall(SYS_ppoll, NULL, 0, NULL, 8L, 8L), EFAULT);
	CHECK_FAILS(syscall(SYS_pselect6, 0, NULL, NULL, NULL, 8L, &short_pair), EFAULT);
	CHECK_FAILS(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &never, &lost_pair), EINVAL);
	CHECK_FAILS(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &never, 8L), EFAULT);
	CHECK_FAILS(syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, &short_pair), EINVAL);
	CHECK(syscall(EPOLL_PWAIT2, epoll, &event, 1, 8L, 8L, 4L) == -1 &&
	      (errno == EFAULT || errno == ENOSYS));
	CHECK(syscall(EPOLL_PWAIT2, epoll, &event, 1, &never, 8L, 8L) == -1 &&
	      (errno == EINVAL || errno == ENOSYS));
}

static void test_waits(void)
{
	sigset_t let_in;
	int epoll = epoll_create1(0);
	struct {
		const sigset_t *mask;
		size_t size_bytes;
	} pair = {&let_in, 8};
	struct epoll_event event;
	long result;

	everything_but(&let_in, SIGALRM);
	alarm_blocked();
	result = sigsuspend(&let_in);
	check_waited(result, errno);
	alarm_blocked();
	result = ppoll(NULL, 0, NULL, &let_in);
	check_waited(result, errno);
	alarm_blocked();
	result = syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, &pair);
	check_waited(result, errno);
	alarm_blocked();
	result = epoll_pwait(epoll, &event, 1, -1, &let_in);
	check_waited(result, errno);
	alarm_blocked();
	result = syscall(EPOLL_PWAIT2, epoll, &event, 1, NULL, &let_in, 8L);
	if (result == -1 && errno == ENOSYS)
		result = sigsuspend(&let_in);
	check_waited(result, errno);
	CHECK_FAILS(syscall(SYS_ppoll, NULL, 0, NULL, &let_in, 4L), EINVAL);
	test_two_mistakes(epoll);
	CHECK_FAILS(syscall(SYS_rt_sigsuspend, (void *)8, 8), EFAULT);
	close(epoll);
}

static volatile uint64_t mask_inside;

static void look_at_mask(int signal, siginfo_t *info, void *context)
{
	sigset_t now;

	(void)signal;
	(void)info;
	CHECK(!sigprocmask(SIG_BLOCK, NULL, &now));
	mask_inside = *(uint64_t *)(void *)&now;
	/* The mask that the return sets. */
	memset(&((ucontext_t *)context)->uc_sigmask, 0xff, 8);
	make_trapped_calls();
}

/* In a handler: the mask of the wait, the action's and the signal itself; after it the frame's. */
static void test_mask_in_a_handler(void)
{
	struct sigaction action = {.sa_sigaction = look_at_mask, .sa_flags = SA_SIGINFO};
	const struct itimerval soon = {.it_value.tv_usec = 20000};
	sigset_t outer, inner, none, now;

	sigemptyset(&none);
	sigemptyset(&outer);
	sigemptyset(&inner);
	sigaddset(&outer, SIGALRM);
	sigaddset(&outer, SIGUSR1);
	sigaddset(&inner, SIGUSR2);
	sigaddset(&action.sa_mask, SIGHUP);
	CHECK(!sigaction(SIGALRM, &action, NULL));
	CHECK(!sigprocmask(SIG_SETMASK, &outer, NULL));
	CHECK(!setitimer(ITIMER_REAL, &soon, NULL));
	CHECK(sigsuspend(&inner) == -1);
	CHECK(mask_inside == (1ul << (SIGALRM - 1) | 1ul << (SIGUSR2 - 1) | 1ul << (SIGHUP - 1)));
	make_trapped_calls();
	CHECK(!sigprocmask(SIG_SETMASK, &none, &now));
	CHECK(sigismember(&now, SIGSYS) && sigismember(&now, SIGTERM));
}

static void test_signalfd(void)
{
	struct signalfd_siginfo got;
	sigset_t all, none;
	int fd;

	sigemptyset(&none);
	sigfillset(&all);
	fd = signalfd(-1, &all, SFD_CLOEXEC);
	CHECK(fd >= 0 && !sigprocmask(SIG_SETMASK, &all, NULL));
	CHECK(!raise(SIGUSR1));
	make_trapped_calls();
	CHECK(read(fd, &got, sizeof(got)) == sizeof(got) && got.ssi_signo == SIGUSR1);
	CHECK(!sigprocmask(SIG_SETMASK, &none, NULL));
	close(fd);
}

/* The least stack that the kernel accepts a frame on. */
static uint8_t alternate[16384];
static volatile uintptr_t stack_inside;
static stack_t seen_inside;

static void on_alternate(int signal)
{
	int local = 0;

	(void)signal;
	stack_inside = (uintptr_t)&local;
	make_trapped_calls();
	CHECK(!sigaltstack(NULL, &seen_inside));
	CHECK_FAILS(sigaltstack(&seen_inside, NULL), EPERM);
}

static void test_alternate_stack(void)
{
	const size_t least = (size_t)sysconf(_SC_MINSIGSTKSZ) + 2048;
	stack_t stack = {.ss_sp = alternate, .ss_size = least}, old;
	struct sigaction action = {.sa_handler = on_alternate, .sa_flags = SA_ONSTACK};
	stack_t small = {.ss_sp = alternate, .ss_size = 1024}, none = {.ss_flags = 0};

	/* None of no size is what a program begins with, also after signals; not what it asks for
	 * later. */
	CHECK(!sigaltstack(&none, NULL));
	CHECK(!sigaltstack(&stack, &old) && (old.ss_flags & SS_DISABLE));
	CHECK_FAILS(sigaltstack(&small, NULL), ENOMEM);
	CHECK(!sigaction(SIGUSR1, &action, NULL) && !raise(SIGUSR1));
	CHECK(stack_inside >= (uintptr_t)alternate && stack_inside < (uintptr_t)alternate + least);
	CHECK(seen_inside.ss_sp == alternate && (seen_inside.ss_flags & SS_ONSTACK));
	CHECK(!sigaltstack(NULL, &old) && old.ss_sp == alternate && !old.ss_flags);
	action.sa_flags = 0;
	CHECK(!sigaction(SIGUSR1, &action, NULL));
	stack.ss_flags = SS_DISABLE;
	CHECK(!sigaltstack(&stack, NULL));
	CHECK_FAILS(sigaltstack(&none, NULL), ENOMEM);
}

static volatile uintptr_t fault_address;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	fault_address = (uintptr_t)info->si_addr;
	make_trapped_calls();
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = (greg_t)&fault_address;
}

/* The client's own faults; the handler mends a register. */
static void test_faults(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	uint64_t value;

	CHECK(!sigaction(SIGSEGV, &action, NULL));
	__asm__ volatile("movq $0x1230, %%rax\n\tmovq (%%rax), %0"
			 : "=r"(value)
			 :
			 : "rax", "memory");
	CHECK(fault_address == 0x1230 && value == 0x1230);
	signal(SIGSEGV, SIG_DFL);
}

/* No compiler may know where this points. */
static volatile int *volatile nowhere = (volatile int *)8;

static void end_by_fault(int how)
{
	sigset_t segv;

	sigemptyset(&segv);
	sigaddset(&segv, SIGSEGV);
	if (how == 1)
		sigprocmask(SIG_BLOCK, &segv, NULL);
	if (how == 2)
		raise(SIGSEGV);
	*nowhere = 0;
	_exit(0);
}

static void test_death(void)
{
	for (int how = 0; how < 3; how++) {
		int status;
		pid_t child = fork();

		if (child == 0)
			end_by_fault(how);
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
}

/* A read that a handler interrupts goes on with SA_RESTART, and ends without. */
static void test_restart(void)
{
	/* Of those that let a call end: the first may come before the call has begun. */
	const struct itimerval often = {.it_value.tv_usec = 20000, .it_interval.tv_usec = 20000};
	const struct itimerval soon = {.it_value.tv_usec = 20000}, never = {0};
	/* In memory that the child sees. */
	volatile uint8_t *is_over =
	    mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char fifo[64];
	int ends[2], status;
	pid_t child;
	char byte;

	CHECK(!pipe(ends));
	handle(SIGALRM, 0);
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	CHECK_FAILS(read(ends[0], &byte, 1), EINTR);
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	handle(SIGALRM, SA_RESTART);
	handler_tells = is_over;
	CHECK(!setitimer(ITIMER_REAL, &soon, NULL));
	child = fork();
	if (child == 0) {
		while (!*is_over)
			usleep(1000);
		_exit(write(ends[1], "x", 1) != 1);
	}
	CHECK(read(ends[0], &byte, 1) == 1 && handled == 1);
	handler_tells = NULL;
	CHECK(!munmap((void *)is_over, 4096));
	CHECK(waitpid(child, &status, 0) == child && !status);
	/* A call that is trapped and forwarded, too: a FIFO without a writer. */
	snprintf(fifo, sizeof(fifo), "/tmp/quire-engine-fifo.%d", (int)getpid());
	CHECK(!mkfifo(fifo, 0600));
	handle(SIGALRM, 0);
	CHECK(!setitimer(ITIMER_REAL, &often, NULL));
	CHECK_FAILS(open(fifo, O_RDONLY), EINTR);
	CHECK(!setitimer(ITIMER_REAL, &never, NULL));
	unlink(fifo);
	close(ends[0]);
	close(ends[1]);
}

static void *thread_main(void *argument)
{
	sigset_t now;

	CHECK(!sigprocmask(SIG_BLOCK, NULL, &now));
	CHECK(sigismember(&now, SIGUSR2) && sigismember(&now, SIGSYS));
	make_trapped_calls();
	for (int i = 0; i < 50; i++)
		CHECK(!pthread_kill(pthread_self(), SIGUSR1));
	return argument;
}

/* Threads inherit the mask, and have no alternate stack; each has its own signals. */
static void test_threads(void)
{
	sigset_t blocked, none;
	pthread_t threads[8];
	void *result;

	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGSYS);
	handle(SIGUSR1, 0);
	CHECK(!sigprocmask(SIG_SETMASK, &blocked, NULL));
	for (int round = 0; round < 5; round++) {
		for (uintptr_t i = 0; i < 8; i++)
			CHECK(!pthread_create(&threads[i], NULL, thread_main, (void *)i));
		for (uintptr_t i = 0; i < 8; i++)
			CHECK(!pthread_join(threads[i], &result) && result == (void *)i);
	}
	CHECK(!sigprocmask(SIG_SETMASK, &none, NULL));
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
	    {"masks", test_masks},	 {"actions", test_actions},
	    {"waits", test_waits},	 {"mask_in_a_handler", test_mask_in_a_handler},
	    {"signalfd", test_signalfd}, {"alternate_stack", test_alternate_stack},
	    {"faults", test_faults},	 {"death", test_death},
	    {"restart", test_restart},	 {"threads", test_threads},
	};

	run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc > 1 ? argv[1] : NULL);
	return 0;
}
