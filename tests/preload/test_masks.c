/*
 * Masks, faults in handlers, and signals that wait: what a client sees with us in its process is
 * what it sees without. Run both ways: with the argument "native", /dev/kvm is not opened.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/preload/check.h"
#include "tests/preload/fake_frontend.h"

static int kvm = -1;
static volatile int handled, made_call;
static sigset_t seen_mask, context_mask;
static sigjmp_buf landing;
static char *no_access;

/* A call of ours that makes a guarded access which faults; natively, nothing. */
static void make_call(void)
{
	struct fake_run request = {.touch = (uintptr_t)no_access};

	if (kvm < 0)
		return;
	CHECK_FAILS(ioctl(kvm, FAKE_RUN, &request), EFAULT);
	made_call++;
}

static void record(int signal, siginfo_t *info, void *opaque)
{
	const ucontext_t *context = opaque;

	(void)signal;
	(void)info;
	handled++;
	pthread_sigmask(SIG_SETMASK, NULL, &seen_mask);
	context_mask = context->uc_sigmask;
	make_call();
}

static void set(int signal, void (*function)(int, siginfo_t *, void *), int flags, int blocks)
{
	struct sigaction action = {.sa_sigaction = function, .sa_flags = flags | SA_SIGINFO};

	if (blocks)
		sigfillset(&action.sa_mask);
	CHECK(!sigaction(signal, &action, NULL));
}

static sigset_t set_of(int signal)
{
	sigset_t one;

	sigemptyset(&one);
	sigaddset(&one, signal);
	return one;
}

static void fault(void)
{
	*(volatile char *)no_access = 1;
}

/* What becomes of a child that runs @function: its exit status, or 256 and its signal. */
static int child(void (*function)(void))
{
	const struct rlimit no_core = {0, 0};
	pid_t pid = fork();
	int status;

	if (!pid) {
		setrlimit(RLIMIT_CORE, &no_core);
		if (kvm >= 0)
			kvm = open("/dev/kvm", O_RDWR);
		alarm(20);
		function();
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static void fault_again(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	make_call();
	fault();
}

static void exit_33(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	_exit(33);
}

static void fault_in_handler(void)
{
	set(SIGSEGV, fault_again, 0, 0);
	fault();
}

static void fault_on_alternate_stack(void)
{
	static char room[64 << 10];
	stack_t stack = {.ss_sp = room, .ss_size = sizeof(room)};

	CHECK(!sigaltstack(&stack, NULL));
	set(SIGSEGV, fault_again, SA_ONSTACK, 0);
	fault();
}

static void fault_while_blocked(void)
{
	sigset_t set_segv = set_of(SIGSEGV);

	set(SIGSEGV, exit_33, 0, 0);
	pthread_sigmask(SIG_BLOCK, &set_segv, NULL);
	make_call();
	fault();
}

static void fault_in_other_handler(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	make_call();
	fault();
}

/* The mask of SIGUSR1's handler blocks SIGSEGV. */
static void fault_while_handler_blocks(void)
{
	set(SIGSEGV, exit_33, 0, 0);
	set(SIGUSR1, fault_in_other_handler, 0, 1);
	raise(SIGUSR1);
}

static void fault_handled_in_handler(void)
{
	set(SIGSEGV, exit_33, 0, 0);
	set(SIGUSR1, fault_in_other_handler, 0, 0);
	raise(SIGUSR1);
}

static void test_faults(void)
{
	CHECK(child(fault_in_handler) == 256 + SIGSEGV);
	CHECK(child(fault_on_alternate_stack) == 256 + SIGSEGV);
	CHECK(child(fault_while_blocked) == 256 + SIGSEGV);
	CHECK(child(fault_while_handler_blocks) == 256 + SIGSEGV);
	CHECK(child(fault_handled_in_handler) == 33);
}

static void jump(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	handled++;
	make_call();
	siglongjmp(landing, 1);
}

/* Again and again: what a jump out of the handler leaves behind must not end the process. */
static void test_jumps(void)
{
	sigset_t now;

	set(SIGSEGV, jump, 0, 1);
	handled = 0;
	for (int i = 0; i < 3; i++) {
		if (!sigsetjmp(landing, 1))
			fault();
		CHECK(!pthread_sigmask(SIG_BLOCK, NULL, &now));
		CHECK(!sigismember(&now, SIGSEGV) && !sigismember(&now, SIGUSR2));
		make_call();
	}
	CHECK(handled == 3);
}

static void test_masks_in_handlers(void)
{
	set(SIGUSR1, record, 0, 1);
	handled = 0;
	raise(SIGUSR1);
	CHECK(handled == 1);
	CHECK(sigismember(&seen_mask, SIGSEGV) && sigismember(&seen_mask, SIGBUS));
	CHECK(sigismember(&seen_mask, SIGUSR1) && !sigismember(&context_mask, SIGSEGV));
	set(SIGUSR1, record, SA_NODEFER, 0);
	raise(SIGUSR1);
	CHECK(!sigismember(&seen_mask, SIGUSR1) && !sigismember(&seen_mask, SIGSEGV));
}

/* Sent while it is blocked, it waits; what waits can be seen, taken and let in. */
static void test_pending(int signal)
{
	sigset_t blocked = set_of(signal), pending;
	struct signalfd_siginfo read_info;
	int fd = signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
	siginfo_t info;

	set(signal, record, 0, 0);
	handled = 0;
	CHECK(!pthread_sigmask(SIG_BLOCK, &blocked, NULL));
	make_call();
	raise(signal);
	make_call();
	CHECK(!handled && !sigpending(&pending) && sigismember(&pending, signal));
	CHECK(sigwaitinfo(&blocked, &info) == signal && info.si_pid == getpid());
	CHECK(!sigpending(&pending) && !sigismember(&pending, signal) && !handled);
	raise(signal);
	CHECK(read(fd, &read_info, sizeof(read_info)) == sizeof(read_info));
	CHECK((int)read_info.ssi_signo == signal && !handled);
	raise(signal);
	make_call();
	CHECK(!handled && !pthread_sigmask(SIG_UNBLOCK, &blocked, NULL) && handled == 1);
	CHECK(sigismember(&seen_mask, signal) && !sigismember(&context_mask, signal));
	close(fd);
}

static void test_pending_all(void)
{
	test_pending(SIGSEGV);
	test_pending(SIGBUS);
	test_pending(SIGUSR2);
	test_pending(SIGRTMIN + 3);
}

/* The wait blocks all but one: its handler may make any call. */
static void test_waits(void)
{
	sigset_t all_but_one, one = set_of(SIGUSR1);
	struct timespec second = {.tv_sec = 1};

	sigfillset(&all_but_one);
	sigdelset(&all_but_one, SIGUSR1);
	set(SIGUSR1, record, 0, 1);
	handled = 0;
	CHECK(!pthread_sigmask(SIG_BLOCK, &one, NULL));
	raise(SIGUSR1);
	CHECK_FAILS(sigsuspend(&all_but_one), EINTR);
	raise(SIGUSR1);
	CHECK_FAILS(ppoll(NULL, 0, &second, &all_but_one), EINTR);
	CHECK(handled == 2);
	CHECK(!pthread_sigmask(SIG_UNBLOCK, &one, NULL));
	make_call();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
	    {"faults", test_faults},
	    {"jumps", test_jumps},
	    {"masks in handlers", test_masks_in_handlers},
	    {"pending", test_pending_all},
	    {"waits", test_waits},
	};
	int is_native = argc > 1 && !strcmp(argv[1], "native");

	no_access = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(no_access != MAP_FAILED);
	if (!is_native) {
		kvm = open("/dev/kvm", O_RDWR);
		CHECK(kvm >= 0);
		/* The first use is no handler's: with the machine's own node, opening is none. */
		make_call();
	}
	run_tests(tests, sizeof(tests) / sizeof(tests[0]), argc > 1 + is_native ? argv[2] : NULL);
	CHECK(is_native || made_call > 20);
	return 0;
}
