/*
 * Forks of a process whose threads are inside KVM calls all the time. A lock that a thread held at
 * the instant of a fork must not be held in the child. Usage: test_fork FORKS.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frontend/uapi.h"

/* A child that needs longer waits for a lock that no thread will free. */
#define CHILD_SECONDS 60
#define TICK_US 300
/* A fork begins anew at each signal: it has no end where it takes longer than from one to the next.
 */
#define TICKS_OF_A_FORK 200

pid_t _Fork(void);

/* What went wrong in a child, as its exit status. */
enum child_result {
	CHILD_OK,
	CHILD_SIGACTION,
	CHILD_OPEN,
	CHILD_VM,
	CHILD_GMEM,
	CHILD_INHERITED,
	CHILD_MEMORY,
	CHILD_LIMIT,
	CHILD_HANDLER
};

static int kvm, vm;
static struct rlimit files_limit;
static volatile sig_atomic_t ticks, is_forking, ticks_of_fork;
static long tick_us = TICK_US;

static void handle_nothing(int signal)
{
	(void)signal;
}

static void set_ticks(void)
{
	struct itimerval often = {{0, tick_us}, {0, tick_us}};

	setitimer(ITIMER_REAL, &often, NULL);
}

/* Both calls may be made in a handler, and both pass through our tables. */
static void handle_tick(int signal)
{
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

	(void)signal;
	close(fd);
	ticks++;
	if (!is_forking || ++ticks_of_fork < TICKS_OF_A_FORK || tick_us > 100000)
		return;
	ticks_of_fork = 0;
	tick_us *= 2;
	set_ticks();
}

static void *install_handlers(void *unused)
{
	struct sigaction action = {.sa_handler = handle_nothing};

	for (;;)
		sigaction(SIGUSR2, &action, NULL);
	return unused;
}

static void *make_vms(void *unused)
{
	for (;;) {
		int other = ioctl(kvm, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
		struct kvm_create_guest_memfd wanted = {.size = 1 << 20};
		int gmem = ioctl(other, KVM_CREATE_GUEST_MEMFD, &wanted);

		close(gmem);
		close(other);
	}
	return unused;
}

static void *change_memory(void *unused)
{
	for (;;) {
		void *memory = mmap(NULL, 1 << 16, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		munmap(memory, 1 << 16);
	}
	return unused;
}

static enum child_result child_main(void)
{
	struct kvm_create_guest_memfd wanted = {.size = 1 << 20};
	struct sigaction action = {.sa_handler = handle_nothing}, now;
	struct rlimit limit;
	int own, gmem;

	if (sigaction(SIGUSR1, &action, NULL) || sigaction(SIGUSR2, NULL, &now))
		return CHILD_SIGACTION;
	if (now.sa_handler != handle_nothing && now.sa_handler != SIG_DFL)
		return CHILD_HANDLER;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur != files_limit.rlim_cur)
		return CHILD_LIMIT;
	if (ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) != -1 || errno != EIO)
		return CHILD_INHERITED;
	own = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (own < 0)
		return CHILD_OPEN;
	own = ioctl(own, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (own < 0)
		return CHILD_VM;
	gmem = ioctl(own, KVM_CREATE_GUEST_MEMFD, &wanted);
	if (gmem < 0)
		return CHILD_GMEM;
	if (munmap(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096))
		return CHILD_MEMORY;
	return CHILD_OK;
}

static int child_start(void *unused)
{
	(void)unused;
	return (int)child_main();
}

/* The three ways to fork that libc has. */
static pid_t make_child(int turn, char *stack_top)
{
	pid_t pid;

	if (turn % 8 == 7)
		return clone(child_start, stack_top, SIGCHLD, NULL);
	pid = turn % 8 == 3 ? _Fork() : fork();
	if (!pid)
		_exit((int)child_main());
	return pid;
}

/* The child's exit status, or -1: it hangs, and is ended. */
static int child_end(pid_t pid)
{
	const struct timespec nap = {.tv_nsec = 200000};
	time_t deadline = time(NULL) + CHILD_SECONDS;
	int status;

	for (;;) {
		pid_t ended = waitpid(pid, &status, WNOHANG);

		if (ended == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
		if (ended < 0 && errno != EINTR)
			return -1;
		if (time(NULL) > deadline)
			break;
		nanosleep(&nap, NULL);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

static void start_threads(void)
{
	void *(*const functions[])(void *) = {install_handlers, make_vms, make_vms, change_memory};
	struct sigaction tick = {.sa_handler = handle_tick, .sa_flags = SA_RESTART};
	sigset_t alarm_set;

	/* The ticks are the forking thread's. */
	sigemptyset(&alarm_set);
	sigaddset(&alarm_set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarm_set, NULL);
	for (unsigned int i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, functions[i], NULL))
			exit(2);
	}
	pthread_sigmask(SIG_UNBLOCK, &alarm_set, NULL);
	sigaction(SIGALRM, &tick, NULL);
	set_ticks();
}

int main(int argc, char **argv)
{
	int forks = argc > 1 ? atoi(argv[1]) : 1000;
	static char stack[256 << 10] __attribute__((aligned(16)));

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (kvm < 0 || vm < 0 || getrlimit(RLIMIT_NOFILE, &files_limit))
		return 2;
	start_threads();
	for (int i = 0; i < forks; i++) {
		int result;
		pid_t pid;

		ticks_of_fork = 0;
		is_forking = 1;
		pid = make_child(i, stack + sizeof(stack));
		is_forking = 0;
		result = child_end(pid);
		if (result) {
			printf("child of fork %d: %d\n", i, result);
			return 1;
		}
	}
	printf("%d forks, %d ticks\n", forks, (int)ticks);
	/* The other threads never end. */
	fflush(stdout);
	_exit(ticks ? 0 : 3);
}
