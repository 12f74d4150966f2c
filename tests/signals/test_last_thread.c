/*
 * A process ends with the client's last thread, whatever threads of Quire's it has. Each way is a
 * child with a VM; the parent compares how it ended.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frontend/uapi.h"

#define CHILD_SECONDS 30

static int out; /* what the child's atexit handler writes to */

static void at_end(void)
{
	(void)!write(out, "end", 3);
}

/* The VM has its timer thread and listens to parameters. */
static void make_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);

	if (vm < 0 || ioctl(vm, KVM_CREATE_IRQCHIP, 0))
		_exit(99);
}

static void *a_while(void *unused)
{
	usleep(50000);
	return unused;
}

static void start_thread(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, a_while, NULL))
		_exit(98);
}

static void exit_call(void)
{
	make_vm();
	syscall(SYS_exit, 3);
}

/* No function of libc's: what atexit() names is not for it. */
static void exit_call_with_zero(void)
{
	make_vm();
	syscall(SYS_exit, 0);
}

static void trapped_exit_call_with_zero(void)
{
	make_vm();
	__asm__ volatile("syscall" : : "a"((long)SYS_exit), "D"(0l) : "rcx", "r11", "memory");
}

static void exit_call_before_another(void)
{
	make_vm();
	start_thread();
	syscall(SYS_exit, 5);
}

static void pthread_exit_alone(void)
{
	make_vm();
	pthread_exit(NULL);
}

static void pthread_exit_before_another(void)
{
	make_vm();
	start_thread();
	pthread_exit(NULL);
}

static int clone_main(void *unused)
{
	(void)unused;
	make_vm();
	return 7;
}

static int clone_main_with_zero(void *unused)
{
	(void)unused;
	atexit(at_end);
	make_vm();
	return 0;
}

struct way {
	const char *name;
	void (*run)(void);
	int (*cloned)(void *unused); /* instead: a child made by clone(), which returns from it */
	int status;
	const char *written; /* by the atexit handler */
};

static pid_t start(const struct way *way)
{
	static char stack[256 << 10] __attribute__((aligned(16)));
	pid_t pid;

	if (way->cloned)
		return clone(way->cloned, stack + sizeof(stack), SIGCHLD, NULL);
	pid = fork();
	if (!pid) {
		atexit(at_end);
		way->run();
		_exit(97);
	}
	return pid;
}

/* 0 if @pid ends with the status of @way. */
static int check(const struct way *way, pid_t pid, int from)
{
	time_t deadline = time(NULL) + CHILD_SECONDS;
	char text[8] = "";
	int status;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (time(NULL) > deadline) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			printf("%s: does not end\n", way->name);
			return 1;
		}
		usleep(1000);
	}
	if (read(from, text, sizeof(text) - 1) < 0)
		return 1;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != way->status ||
	    strcmp(text, way->written)) {
		printf("%s: status %#x, wrote '%s'\n", way->name, status, text);
		return 1;
	}
	return 0;
}

int main(void)
{
	static const struct way ways[] = {
	    {"exit", exit_call, NULL, 3, ""},
	    {"exit with 0", exit_call_with_zero, NULL, 0, ""},
	    {"trapped exit with 0", trapped_exit_call_with_zero, NULL, 0, ""},
	    {"exit before another thread", exit_call_before_another, NULL, 5, ""},
	    {"pthread_exit", pthread_exit_alone, NULL, 0, "end"},
	    {"pthread_exit before another thread", pthread_exit_before_another, NULL, 0, "end"},
	    {"return of a clone() child", NULL, clone_main, 7, ""},
	    {"return of 0 of a clone() child", NULL, clone_main_with_zero, 0, ""},
	};
	int failed = 0;

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		int ends[2];
		pid_t pid;

		if (pipe2(ends, O_CLOEXEC))
			return 2;
		out = ends[1];
		pid = start(&ways[i]);
		close(ends[1]);
		failed += check(&ways[i], pid, ends[0]);
		close(ends[0]);
	}
	return failed != 0;
}
