/*
 * A dynamic program executes a static one: by its descriptor, which is closed by that, by
 * posix_spawn(3), and as the interpreter of scripts.
 * usage: test_to_static TEST_ENGINE_PROCESSES
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

#define FAILED(...)                  \
	do {                         \
		printf("FAILED: ");  \
		printf(__VA_ARGS__); \
		printf("\n");        \
		failed = 1;          \
	} while (0)

static int failed;

static void spawned(const char *program)
{
	static const char *const names[] = {"posix_spawn", "posix_spawnp"};

	for (int by_name = 0; by_name < 2; by_name++) {
		pid_t child;
		int status = -1, error;

		error = (by_name ? posix_spawnp : posix_spawn)(&child, program, NULL, NULL, argv,
							       no_environment);
		if (!error)
			waitpid(child, &status, 0);
		if (error || !WIFEXITED(status) || WEXITSTATUS(status) != CHILD_STATUS)
			FAILED("%s: error %d, status %#x", names[by_name], error, status);
	}
}

static char folder[] = "/tmp/quire-scripts.XXXXXX";

static char *in_folder(const char *name)
{
	static char path[4][PATH_MAX];
	static unsigned int turn;
	char *place = path[turn++ % 4];

	snprintf(place, PATH_MAX, "%s/%s", folder, name);
	return place;
}

static void write_script(const char *name, const char *format, const char *interpreter, mode_t mode)
{
	FILE *file = fopen(in_folder(name), "w");

	fprintf(file, format, interpreter);
	fclose(file);
	chmod(in_folder(name), mode);
}

/* Runs the script by its path, or by a descriptor. What came of it: the status, or -errno. */
static int run_script(const char *name, int by_descriptor)
{
	/* The program wants a script with "inner" in its name, and one argument. */
	char *const arguments[] = {in_folder(name), (char *)"one two", NULL};
	int status, fd = open(arguments[0], O_RDONLY);
	pid_t child = fork();

	if (child == 0) {
		if (by_descriptor)
			fexecve(fd, arguments, no_environment);
		else
			execve(arguments[0], arguments, no_environment);
		_exit(100 + errno);
	}
	close(fd);
	waitpid(child, &status, 0);
	if (!WIFEXITED(status))
		return -1000;
	return WEXITSTATUS(status) > 100 ? 100 - WEXITSTATUS(status) : WEXITSTATUS(status);
}

static void scripts(const char *program)
{
	static const struct {
		const char *name;
		int result;
	} rows[] = {
	    {"inner", CHILD_STATUS}, {"spaced/inner", CHILD_STATUS},
	    {"empty", -ENOEXEC},     {"blank", -ENOEXEC},
	    {"lost", -ENOENT},	     {"folder", -EACCES},
	    {"no-rights", -EACCES},  {"loop", -ELOOP},
	    {"neither", -ENOEXEC},
	};

	write_script("inner", "#!%s script argument\n", program, 0755);
	mkdir(in_folder("spaced"), 0755);
	write_script("spaced/inner", "#! \t%s \t script argument \t\nmore\n", program, 0755);
	write_script("empty", "#!\n%s", "", 0755);
	write_script("blank", "#! \t \n%s", "", 0755);
	write_script("lost", "#!%s/nothing\n", folder, 0755);
	write_script("folder", "#!%s\n", folder, 0755);
	write_script("no-rights", "#!%s script argument\n", program, 0644);
	write_script("loop", "#!%s/loop\n", folder, 0755);
	write_script("neither", "text%s\n", "", 0755);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		/* By a descriptor the script has no name that the program wants. */
		int ways = rows[i].result == CHILD_STATUS ? 1 : 2;

		for (int by_descriptor = 0; by_descriptor < ways; by_descriptor++) {
			int result = run_script(rows[i].name, by_descriptor);

			if (result != rows[i].result)
				FAILED("script %s, by %s: %d, not %d", rows[i].name,
				       by_descriptor ? "descriptor" : "path", result,
				       rows[i].result);
		}
		unlink(in_folder(rows[i].name));
	}
	rmdir(in_folder("spaced"));
}

int main(int argc, char **arguments)
{
	failed = argc < 2;
	setvbuf(stdout, NULL, _IOLBF, 0);

	for (int way = 0; way < 4 && !failed; way++) {
		int status = status_of(way, arguments[1]);

		if (!WIFEXITED(status) || WEXITSTATUS(status) != CHILD_STATUS) {
			FAILED("way %d ends with status %#x", way, status);
		}
	}
	/* Where the exec fails, no descriptor is left behind. */
	if (open("/dev/null", O_RDONLY) != 3)
		FAILED("a descriptor was left");
	if (failed)
		return 1;
	spawned(arguments[1]);
	if (!mkdtemp(folder))
		return 1;
	scripts(arguments[1]);
	rmdir(folder);
	return failed;
}
