/*
 * Processes of a static program on the engine: fork, vfork, clone and clone3, and programs that it
 * executes in every way there is. What passes here passes without Quire.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define CHILD "child"
#define CHILD_STATUS 42

static char self[PATH_MAX];
static char *const no_environment[] = {NULL};

static void expect_status_at(int line, pid_t child, int wanted)
{
	int status;

	CHECK(child > 0);
	CHECK(waitpid(child, &status, 0) == child);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != wanted) {
		fprintf(stderr, "%s:%d: the child's status is %#x, not the exit %d (errno %s)\n",
			__FILE__, line, (unsigned int)status, wanted, strerror(errno));
		exit(1);
	}
}

#define expect_status(child, wanted) expect_status_at(__LINE__, child, wanted)

/* Reaches the engine from a child, by a call that is trapped. */
static int trapped_call(void)
{
	return open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT ? CHILD_STATUS : 1;
}

static void test_fork(void)
{
	static _Thread_local int local = 7;
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child;

	for (int i = 0; i < 20; i++) {
		child = fork();
		if (child == 0) {
			*shared = getpid();
			_exit(local == 7 ? trapped_call() : 2);
		}
		expect_status(child, CHILD_STATUS);
		CHECK(*shared == child);
	}
	child = fork();
	if (child == 0) {
		/* Threads of a child, and its own children. */
		pid_t grandchild = fork();

		if (grandchild == 0)
			_exit(trapped_call());
		expect_status(grandchild, CHILD_STATUS);
		_exit(CHILD_STATUS);
	}
	expect_status(child, CHILD_STATUS);
}

static void *forking_thread(void *argument)
{
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();

		if (child == 0)
			_exit(trapped_call());
		expect_status(child, CHILD_STATUS);
	}
	return argument;
}

static void test_fork_of_threads(void)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, forking_thread, NULL));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(threads[i], NULL));
}

static void on_signal(int signal)
{
	(void)signal;
}

/* A child in this memory changes neither the parent's handlers nor its alternate stack. */
static void test_vfork(void)
{
	struct sigaction action = {.sa_handler = on_signal}, now;
	volatile int seen = 0;
	pid_t child;

	CHECK(!sigaction(SIGUSR1, &action, NULL));
	child = vfork();
	if (child == 0) {
		struct sigaction none = {.sa_handler = SIG_DFL};

		seen = trapped_call();
		sigaction(SIGUSR1, &none, NULL);
		_exit(3);
	}
	expect_status(child, 3);
	CHECK(seen == CHILD_STATUS);
	CHECK(!sigaction(SIGUSR1, NULL, &now) && now.sa_handler == on_signal);
	CHECK(!raise(SIGUSR1));
}

static int clone_main(void *argument)
{
	return argument == self ? trapped_call() : 1;
}

static void test_clone(void)
{
	static uint8_t stack[65536] __attribute__((aligned(16)));
	struct clone_args args = {.flags = CLONE_PIDFD, .exit_signal = SIGCHLD};
	int pidfd = -1;
	pid_t child;

	expect_status(clone(clone_main, stack + sizeof(stack), SIGCHLD, self), CHILD_STATUS);
	expect_status(
	    clone(clone_main, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, self),
	    CHILD_STATUS);
	expect_status(clone(clone_main, stack + sizeof(stack), CLONE_VM | SIGCHLD, self),
		      CHILD_STATUS);
	args.pidfd = (uintptr_t)&pidfd;
	child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (child == 0)
		_exit(trapped_call());
	CHECK(pidfd >= 0);
	close(pidfd);
	expect_status(child, CHILD_STATUS);
	CHECK_FAILS(syscall(SYS_clone3, &args, 8L), EINVAL);
	CHECK_FAILS(syscall(SYS_clone3, (void *)8, sizeof(args)), EFAULT);
}

static void write_script(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);

	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* Each in a child: the ways to another program. */
static void execute(int way, char *const argv[])
{
	int fd = open(self, (way == 5 ? O_PATH : O_RDONLY) | (way == 3 ? O_CLOEXEC : 0));
	pid_t child;

	switch (way) {
	case 0:
		execve(self, argv, no_environment);
		break;
	case 1:
		execve("/proc/self/exe", argv, environ);
		break;
	case 2:
		fexecve(fd, argv, no_environment);
		break;
	case 3:
	case 5:
		syscall(SYS_execveat, fd, "", argv, no_environment, (long)AT_EMPTY_PATH);
		break;
	case 4:
		if (posix_spawn(&child, self, NULL, NULL, argv, no_environment))
			_exit(9);
		expect_status(child, CHILD_STATUS);
		_exit(CHILD_STATUS);
	default:
		break;
	}
	_exit(7);
}

static void test_exec(void)
{
	char *const argv[] = {(char *)"renamed", (char *)CHILD, (char *)"an argument", NULL};

	for (int way = 0; way < 6; way++) {
		pid_t child = fork();

		if (child == 0)
			execute(way, argv);
		expect_status(child, CHILD_STATUS);
	}
}

/* Static, script, dynamic, script, static. */
static void test_chain(const char *folder)
{
	char inner[PATH_MAX], outer[PATH_MAX], text[2 * PATH_MAX];
	char *const argv[] = {outer, (char *)"one two", NULL};
	pid_t child;

	snprintf(inner, sizeof(inner), "%s/inner", folder);
	snprintf(outer, sizeof(outer), "%s/outer", folder);
	snprintf(text, sizeof(text), "#!%s script argument \n", self);
	write_script(inner, text);
	snprintf(text, sizeof(text),
		 "#!/bin/sh\n[ \"$1\" = 'one two' ] || exit 1\n"
		 "env -i %s 'one two' || exit $?\n",
		 inner);
	write_script(outer, text);
	child = fork();
	if (child == 0) {
		execve(outer, argv, environ);
		_exit(6);
	}
	expect_status(child, CHILD_STATUS);
	unlink(inner);
	unlink(outer);
}

static void test_exec_errors(const char *folder)
{
	char path[PATH_MAX];
	char *const argv[] = {(char *)"x", NULL};

	snprintf(path, sizeof(path), "%s/file", folder);
	CHECK_FAILS(execve(path, argv, environ), ENOENT);
	write_script(path, "neither of them\n");
	CHECK_FAILS(execve(path, argv, environ), ENOEXEC);
	CHECK(!chmod(path, 0644));
	CHECK_FAILS(execve(path, argv, environ), EACCES);
	write_script(path, "#!/nonexistent/interpreter\n");
	CHECK(!chmod(path, 0755));
	CHECK_FAILS(execve(path, argv, environ), ENOENT);
	CHECK_FAILS(execve(folder, argv, environ), EACCES);
	CHECK_FAILS(syscall(SYS_execve, (long)8, argv, environ), EFAULT);
	CHECK_FAILS(syscall(SYS_execve, self, (long)8, environ), EFAULT);
	CHECK_FAILS(execve("", argv, environ), ENOENT);
	/* The file is found before the arguments are. */
	CHECK_FAILS(syscall(SYS_execve, "", (long)8, environ), ENOENT);
	CHECK_FAILS(syscall(SYS_execve, "/nonexistent/file", argv, (long)8), ENOENT);
	CHECK_FAILS(syscall(SYS_execve, folder, (long)8, environ), EACCES);
	CHECK_FAILS(syscall(SYS_execveat, AT_FDCWD, "", (long)8, environ, 0L), ENOENT);
	CHECK_FAILS(syscall(SYS_execveat, AT_FDCWD, self, (long)8, environ, 1L), EINVAL);
	CHECK_FAILS(syscall(SYS_execveat, AT_FDCWD, self, (long)8, environ, 0L), EFAULT);
	unlink(path);
}

/* What a program that was executed finds. */
static int child_main(int argc, char **argv)
{
	char name[32], link[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", link, sizeof(link) - 1);

	CHECK(length > 0);
	link[length] = '\0';
	CHECK(strstr(link, "processes"));
	CHECK(!prctl(PR_GET_NAME, name));
	if (!strcmp(argv[1], "script argument")) {
		/* Interpreter, argument, script, the script's arguments. */
		CHECK(argc == 4 && strstr(argv[2], "/inner") && !strcmp(argv[3], "one two"));
		CHECK(!strcmp(name, "inner"));
		CHECK(!environ[0] || !strncmp(environ[0], "LD_PRELOAD", 10) ||
		      !strncmp(environ[0], "QUIRE_RUN_DIR", 13));
		return trapped_call();
	}
	CHECK(argc == 3 && !strcmp(argv[0], "renamed") && !strcmp(argv[2], "an argument"));
	for (char **entry = environ; *entry; entry++)
		CHECK(strncmp(*entry, "QUIRE_ENGINE", 12));
	return trapped_call();
}

int main(int argc, char **argv)
{
	char folder[] = "/tmp/quire-engine.XXXXXX";
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	CHECK(length > 0);
	if (argc > 1)
		return child_main(argc, argv);
	CHECK(mkdtemp(folder));
	test_fork();
	test_fork_of_threads();
	test_vfork();
	test_clone();
	test_exec();
	test_exec_errors(folder);
	test_chain(folder);
	rmdir(folder);
	return 0;
}
