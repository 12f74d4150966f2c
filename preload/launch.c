/* How a program is started on the engine. */
#include "preload/launch.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int text_copy(char *to, size_t room, const char *from)
{
	size_t length = strnlen(from, room);

	if (length == room)
		return -ENAMETOOLONG;
	memcpy(to, from, length + 1);
	return 0;
}

/* Put @word before the others. */
static int push(struct launch *launch, const char *word)
{
	if (launch->word_count == LAUNCH_WORDS_MAX)
		return -ELOOP;
	memmove(launch->words + 1, launch->words, launch->word_count * sizeof(launch->words[0]));
	launch->words[0] = word;
	launch->word_count++;
	return 0;
}

/*
 * "#! interpreter argument" in @head, cut in place: the argument is the rest of the line, without
 * blanks at its ends. NULL: no interpreter.
 */
static char *script_cut(char *head, char **argument)
{
	char *interpreter = head + 2 + strspn(head + 2, " \t"), *end;

	*argument = NULL;
	head[2 + strcspn(head + 2, "\n")] = '\0';
	for (end = interpreter + strlen(interpreter);
	     end > interpreter && (end[-1] == ' ' || end[-1] == '\t'); end--)
		end[-1] = '\0';
	if (!*interpreter)
		return NULL;
	end = interpreter + strcspn(interpreter, " \t");
	if (*end) {
		*end++ = '\0';
		*argument = end + strspn(end, " \t");
	}
	return interpreter;
}

/* May this process execute the open file? As the kernel asks: a file, on a mount that allows it. */
static int check_file(int fd)
{
	struct stat status;

	if (fstat(fd, &status))
		return -errno;
	if (!S_ISREG(status.st_mode))
		return -EACCES;
	return faccessat(fd, "", X_OK, AT_EMPTY_PATH | AT_EACCESS) && errno != EINVAL ? -errno : 0;
}

/* One file of the chain. 1: a script, with its interpreter in launch->program. */
static int resolve_one(struct launch *launch, int fd, unsigned int depth)
{
	char elf_head[LAUNCH_HEAD_BYTES] = "", *head, *interpreter, *argument;
	ssize_t got;
	int error = check_file(fd);

	if (error)
		return error;
	head = depth < LAUNCH_SCRIPTS_MAX ? launch->heads[depth] : elf_head;
	memset(head, 0, LAUNCH_HEAD_BYTES);
	got = pread(fd, head, LAUNCH_HEAD_BYTES - 1, 0);
	if (got < 0)
		return -errno;
	if (got >= (ssize_t)sizeof(Elf64_Ehdr) && !memcmp(head, ELFMAG, SELFMAG)) {
		launch->kind = program_check_elf(fd, head);
		return 0;
	}
	if (head[0] != '#' || head[1] != '!')
		return -ENOEXEC;
	if (depth == LAUNCH_SCRIPTS_MAX)
		return -ELOOP;
	interpreter = script_cut(head, &argument);
	if (!interpreter)
		return -ENOEXEC;
	if (!launch->word_count)
		error = push(launch, launch->name);
	if (!error && argument)
		error = push(launch, argument);
	if (!error)
		error = push(launch, interpreter);
	if (!error)
		error = text_copy(launch->program, sizeof(launch->program), interpreter);
	return error ? error : 1;
}

static int resolve_rest(struct launch *launch, unsigned int depth)
{
	int more = 1;

	while (more > 0) {
		int fd = open(launch->program, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

		if (fd < 0)
			return -errno;
		more = resolve_one(launch, fd, depth++);
		close(fd);
	}
	return more;
}

int launch_resolve(struct launch *launch, const char *path)
{
	int error = text_copy(launch->name, sizeof(launch->name), path);

	launch->fd = -1;
	launch->word_count = 0;
	if (error)
		return error;
	strcpy(launch->program, launch->name);
	return resolve_rest(launch, 0);
}

int launch_resolve_fd(struct launch *launch, int fd, const char *path)
{
	int more = text_copy(launch->name, sizeof(launch->name), path);

	launch->fd = -1;
	launch->word_count = 0;
	if (more)
		return more;
	strcpy(launch->program, launch->name);
	more = resolve_one(launch, fd, 0);
	if (more > 0)
		return resolve_rest(launch, 1);
	if (!more)
		launch->fd = fd;
	return more;
}

static void join(char *text, const char *first, const char *second)
{
	size_t length = strlen(first);

	memcpy(text, first, length);
	strncpy(text + length, second, PATH_MAX + 63 - length);
	text[PATH_MAX + 63] = '\0';
}

/* @number in decimal at @text; the end of it. */
static char *write_number(char *text, int number)
{
	char digits[12];
	unsigned int left = (unsigned int)number, count = 0;

	if (number < 0) {
		*text++ = '-';
		left = -left;
	}
	do
		digits[count++] = (char)('0' + left % 10);
	while (left /= 10);
	while (count)
		*text++ = digits[--count];
	return text;
}

void launch_write(struct launch_strings *strings, const struct launch *launch,
		  const struct launch_place *place)
{
	char state[PATH_MAX], *end = state;

	*end++ = (char)('0' + (place->is_filtered ? LAUNCH_FILTERED : 0) +
			(place->shows_cpuid ? LAUNCH_CPUID : 0));
	*end++ = ',';
	end = write_number(end, launch->fd);
	*end++ = ',';
	*end = '\0';
	if (place->directory)
		strncat(state, place->directory, sizeof(state) - 32);
	join(strings->texts[0], LAUNCH_ENGINE, place->engine);
	join(strings->texts[1], LAUNCH_STATE, state);
	join(strings->texts[2], LAUNCH_PROGRAM, launch->program);
	join(strings->texts[3], LAUNCH_NAME, launch->name);
	for (unsigned int i = 0; i < LAUNCH_STRINGS; i++)
		strings->list[i] = strings->texts[i];
}
