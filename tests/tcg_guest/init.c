/*
 * The first program of a guest that runs tests of ours under a kernel of its own. Each line of the
 * file /plan is a task: NAME USER SECONDS PROGRAM ARGUMENTS... What a task prints goes to the
 * console, and then a line "guest: NAME STATUS MILLISECONDS", where STATUS is its exit, or 128 and
 * the signal that ended it. The last line is "guest: end".
 */
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORDS 32
#define POLL_MICROSECONDS 20000

static long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void mount_all(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	(void)!symlink("/proc/self/fd", "/dev/fd");
	mkdir("/dev/shm", 01777);
	mount("shm", "/dev/shm", "tmpfs", 0, "mode=1777");
	mount("tmp", "/tmp", "tmpfs", 0, "mode=1777");
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		perror(path);
	if (fd >= 0)
		close(fd);
}

static void run_child(char **words, uid_t user)
{
	setpgid(0, 0);
	if (user && (setgroups(0, NULL) || setgid(user) || setuid(user) || chdir("/tmp"))) {
		perror("setuid");
		_exit(126);
	}
	execv(words[0], words);
	perror(words[0]);
	_exit(127);
}

/* Its exit status as a shell's; 124: it did not end in time. */
static int wait_for(pid_t child, long limit)
{
	int status = 0;

	while (waitpid(child, &status, WNOHANG) != child) {
		if (milliseconds() > limit) {
			kill(-child, SIGKILL);
			waitpid(child, &status, 0);
			return 124;
		}
		usleep(POLL_MICROSECONDS);
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void run_task(char *line)
{
	char *words[WORDS + 1] = {NULL};
	long begin = milliseconds();
	size_t count = 0;
	pid_t child;
	int status;

	for (char *word = strtok(line, " \n"); word && count < WORDS; word = strtok(NULL, " \n"))
		words[count++] = word;
	if (count < 4)
		return;
	child = fork();
	if (!child)
		run_child(words + 3, (uid_t)strtoul(words[1], NULL, 10));
	status = child < 0 ? 125 : wait_for(child, begin + strtol(words[2], NULL, 10) * 1000);
	printf("guest: %s %d %ld\n", words[0], status, milliseconds() - begin);
}

int main(void)
{
	char line[4096];
	FILE *plan;

	mount_all();
	setvbuf(stdout, NULL, _IONBF, 0);
	/* A task that the kernel ends by a signal, or a page that fails, is the task's own news. */
	write_file("/proc/sys/kernel/printk", "1");
	plan = fopen("/plan", "re");
	while (plan && fgets(line, sizeof(line), plan))
		run_task(line);
	printf("guest: end\n");
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
