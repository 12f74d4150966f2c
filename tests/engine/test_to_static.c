/*
 * A dynamic program executes a static one by its descriptor, which is closed by that.
 * usage: test_to_static TEST_ENGINE_PROCESSES
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD "child"
#define CHILD_STATUS 42

static char *const argv[] = {(char *)"renamed", (char *)CHILD, (char *)"an argument", NULL};
static char *const no_environment[] = {NULL};

static void execute(int way, const char *program)
{
	int fd = open(program, (way == 1 ? O_PATH : O_RDONLY) | O_CLOEXEC);
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (way == 0)
		fexecve(fd, argv, no_environment);
	else if (way == 1 || way == 2)
		syscall(SYS_execveat, fd, "", argv, no_environment, (long)AT_EMPTY_PATH);
	else
		execve(path, argv, no_environment);
}

/* The status of a child that executes @program in this way; by vfork in every second. */
static int status_of(int way, const char *program)
{
	pid_t child = way % 2 ? vfork() : fork();
	int status = 0;

	if (child == 0) {
		execute(way, program);
		_exit(7);
	}
	waitpid(child, &status, 0);
	return status;
}

int main(int argc, char **arguments)
{
	int failed = argc < 2;

	for (int way = 0; way < 4 && !failed; way++) {
		int status = status_of(way, arguments[1]);

		if (!WIFEXITED(status) || WEXITSTATUS(status) != CHILD_STATUS) {
			printf("FAILED: way %d ends with status %#x\n", way, status);
			failed = 1;
		}
	}
	/* Where the exec fails, no descriptor is left behind. */
	if (open("/dev/null", O_RDONLY) != 3) {
		printf("FAILED: a descriptor was left\n");
		failed = 1;
	}
	return failed;
}
