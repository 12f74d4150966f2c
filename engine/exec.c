/*
 * Programs that the client executes: all of them start on the engine.
 *
 * The trapping filter is inherited and its handler is not, so after an exec nothing but the engine
 * may make the first system calls. It is executed in the program's place, with the program's own
 * arguments and environment, and told what to load by strings before the environment. What the
 * kernel would refuse is found out here, where the client still gets the error.
 */
#include "engine/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/image.h"
#include "engine/user.h"
#include "frontend/report/report.h"
#include "hosts/process/map.h"
#include "hosts/process/sys.h"
#include "preload/launch.h"

/* No program has more arguments than fit into a quarter of the largest stack. */
#define LIST_MAX (UINT64_C(1) << 22)
#define PAGE_MASK UINT64_C(4095)

/* Everything of one exec, in a mapping of its own: too large for a stack. */
struct start {
	struct launch launch;
	struct launch_strings strings;
	char path[PATH_MAX];
	uint64_t room_bytes;
	const char *vectors[];
};

/* Pointers in the client's list at @list, without the last; -errno. */
static long list_count(uint64_t list)
{
	uint64_t entry = 1, count = 0;

	while (list && count < LIST_MAX) {
		if (user_read(&entry, list + count * sizeof(entry), sizeof(entry)))
			return -EFAULT;
		if (!entry)
			return (long)count;
		count++;
	}
	return list ? -E2BIG : 0;
}

static long list_copy(const char **to, uint64_t list, uint64_t count)
{
	return user_read(to, list, count * sizeof(*to));
}

static struct start *start_make(uint64_t pointers)
{
	uint64_t bytes =
	    (sizeof(struct start) + pointers * sizeof(char *) + PAGE_MASK) & ~PAGE_MASK;
	long room = process_map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct start *start = (struct start *)room;

	if (sys_failed(room))
		return NULL;
	start->room_bytes = bytes;
	return start;
}

/* For reading, which the client's may not be (O_PATH); for the new program, which closes it. */
static int open_again(int fd)
{
	char path[32];
	int again;

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	again = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	return again < 0 ? dup(fd) : again;
}

static long resolve_descriptor(struct start *start, int fd, const char *path)
{
	char name[64 + PATH_MAX];
	int length = snprintf(name, sizeof(name), "/dev/fd/%d%s%s", fd, *path ? "/" : "", path);
	int error;

	if (length >= PATH_MAX)
		return -ENAMETOOLONG;
	if (*path)
		fd = openat(fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	else
		fd = open_again(fd);
	if (fd < 0)
		return -errno;
	error = launch_resolve_fd(&start->launch, fd, name);
	if (error || start->launch.fd < 0) {
		/* A script: its descriptor is gone in the new program if it was to be closed. */
		close(fd);
		return error;
	}
	return 0;
}

/* What the call names. */
static long resolve(struct start *start, const struct trap *trap)
{
	bool has_directory = trap->number == SYS_execveat;
	int flags = has_directory ? (int)trap->args[4] : 0;
	int directory = has_directory ? (int)trap->args[0] : AT_FDCWD;
	long length =
	    user_read_string(start->path, sizeof(start->path), trap->args[has_directory ? 1 : 0]);

	if (length < 0)
		return length;
	if (flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return -EINVAL;
	if (!*start->path && !(flags & AT_EMPTY_PATH))
		return -ENOENT;
	if (image_is_own(start->path))
		strcpy(start->path, image.program);
	if (*start->path && (directory == AT_FDCWD || *start->path == '/') &&
	    !(flags & AT_SYMLINK_NOFOLLOW))
		return launch_resolve(&start->launch, start->path);
	return resolve_descriptor(start, directory, start->path);
}

/* The new program's arguments: a script's words replace the first. */
static long arguments_write(const struct launch *launch, const char **to, uint64_t list,
			    uint64_t count)
{
	uint64_t skipped = launch->word_count && count ? 1 : 0;

	memcpy(to, launch->words, launch->word_count * sizeof(*to));
	to += launch->word_count;
	to[count - skipped] = NULL;
	return list_copy(to, list + skipped * sizeof(*to), count - skipped);
}

static long start_program(struct start *start, const uint64_t lists[2], const uint64_t counts[2])
{
	const struct launch_place place = {image.engine, image.directory, true, image.shows_cpuid};
	const char **argv = start->vectors;
	const char **environment = argv + LAUNCH_WORDS_MAX + counts[0] + 1;
	long error = arguments_write(&start->launch, argv, lists[0], counts[0]);

	if (error)
		return error;
	error = list_copy(environment + LAUNCH_STRINGS, lists[1], counts[1]);
	if (error)
		return error;
	environment[LAUNCH_STRINGS + counts[1]] = NULL;
	launch_write(&start->strings, &start->launch, &place);
	memcpy(environment, start->strings.list, sizeof(start->strings.list));
	report_last(REPORT_PROGRAM_ENDS);
	if (start->launch.kind == PROGRAM_FOREIGN)
		return sys_call(SYS_execve, sys_address(start->launch.program), sys_address(argv),
				sys_address(environment + LAUNCH_STRINGS));
	return sys_call(SYS_execve, sys_address(image.engine), sys_address(argv),
			sys_address(environment));
}

/*
 * A list of the client's cannot be read, or is too long (@error). The kernel finds the file first:
 * it says what is wrong with that, by a call that cannot succeed.
 */
static long refuse(const struct trap *trap, long error)
{
	const uint64_t nowhere = ~UINT64_C(4095);
	long refused;

	if (trap->number == SYS_execveat)
		refused =
		    sys_call(SYS_execveat, trap->args[0], trap->args[1], nowhere, 0, trap->args[4]);
	else
		refused = sys_call(SYS_execve, trap->args[0], nowhere, 0);
	return refused == -EFAULT ? error : refused;
}

long exec_serve(struct trap *trap)
{
	unsigned int first = trap->number == SYS_execveat ? 2 : 1;
	const uint64_t lists[2] = {trap->args[first], trap->args[first + 1]};
	long counts[2] = {list_count(lists[0]), list_count(lists[1])}, error;
	struct start *start;

	if (counts[0] < 0 || counts[1] < 0)
		return refuse(trap, counts[0] < 0 ? counts[0] : counts[1]);
	start = start_make((uint64_t)counts[0] + (uint64_t)counts[1] + LAUNCH_WORDS_MAX +
			   LAUNCH_STRINGS + 2);
	if (!start)
		return -ENOMEM;
	trap->thread->exec_room = start;
	trap->thread->exec_room_bytes = start->room_bytes;
	error = resolve(start, trap);
	if (!error)
		error = start_program(
		    start, lists, (const uint64_t[2]){(uint64_t)counts[0], (uint64_t)counts[1]});
	if (start->launch.fd > 0)
		close(start->launch.fd);
	trap->thread->exec_room = NULL;
	sys_call(SYS_munmap, sys_address(start), start->room_bytes);
	return error;
}
