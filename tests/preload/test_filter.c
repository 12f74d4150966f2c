/*
 * No ioctl of KVM's type reaches the kernel under `quire run`, by whatever entry it is made. The
 * descriptor is a memfd: without the filter the kernel answers ENOTTY, whether it has KVM or not.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/preload/check.h"

#define X32_BIT 0x40000000L
#define KVM_GET_API_VERSION 0xae00
#define ANOTHER_DRIVERS 0xaf00
#define REFUSED (-ENODEV)

static int memfd;

/* Serve calls of the instruction no more: what is left is the filter. */
static void untrap(void)
{
	CHECK(!prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 0, 0, 0, 0));
}

/* By the instruction: libc's syscall() is the library's. */
static long raw(long number, long command)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"((long)memfd), "S"(command), "d"(0L)
			 : "rcx", "r11", "memory");
	return result;
}

/* The entry of 32-bit programs, from this one. A kernel without it raises SIGSEGV. */
static long compat(long command)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(54L), "b"((long)memfd), "c"(command), "d"(0L)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static void check_compat(void)
{
	pid_t child = fork();
	int status;

	if (child == 0)
		untrap();
	if (child == 0)
		_exit(compat(KVM_GET_API_VERSION) == REFUSED && compat(ANOTHER_DRIVERS) == -ENOTTY
			  ? 0
			  : 1);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
}

static void check_entries(void)
{
	memfd = memfd_create("none of KVM's", MFD_CLOEXEC);
	CHECK(memfd >= 0);
	CHECK(prctl(PR_GET_SECCOMP) == 2);
	untrap();
	CHECK(raw(SYS_ioctl, KVM_GET_API_VERSION) == REFUSED);
	CHECK(raw(SYS_ioctl, 0xaeff) == REFUSED);
	CHECK(raw(SYS_ioctl, ANOTHER_DRIVERS) == -ENOTTY);
	/* The kernel takes a command's low half. */
	CHECK(raw(SYS_ioctl, 0x123400000000ae00L) == REFUSED);
	CHECK(raw(X32_BIT | 514, KVM_GET_API_VERSION) == REFUSED);
	CHECK(raw(X32_BIT | SYS_ioctl, KVM_GET_API_VERSION) == REFUSED);
	check_compat();
}

/* By libc's function KVM's ioctls find no KVM, as on any other descriptor. */
static void check_answers(void)
{
	CHECK(ioctl(memfd, KVM_GET_API_VERSION, 0) == -1 && errno == ENOTTY);
	CHECK(ioctl(-1, KVM_GET_API_VERSION, 0) == -1 && errno == EBADF);
	CHECK(ioctl(memfd, ANOTHER_DRIVERS, 0) == -1 && errno == ENOTTY);
}

/* A program started without an environment has the filter, too; and, by whatever call, us. */
static void check_child(void)
{
	char *const argv[] = {(char *)"child", (char *)"child", NULL}, *const none[] = {NULL};
	pid_t child = fork();
	int status;

	if (child == 0) {
		syscall(SYS_execve, "/proc/self/exe", argv, none);
		_exit(99);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int argc, char **argv)
{
	int privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);

	check_entries();
	if (argc > 1 && !strcmp(argv[1], "child"))
		return 0;
	if (argc > 1)
		CHECK(privileges == atoi(argv[1]));
	check_answers();
	check_child();
	return 0;
}
