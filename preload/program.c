/* Can a program be run with us in it? Reads the file's own headers, nothing else. */
#include "preload/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define HEAD_BYTES 256
#define INTERPRETERS_MAX 4 /* a script's interpreter may be a script, this deep */
#define SEGMENTS_MAX 128
#define SEGMENTS_READ 16u /* at once: on the stack of a child of vfork() */

/* "#! interpreter argument": the interpreter's path, in place. */
static char *script_interpreter(char *head)
{
	char *start = head + 2 + strspn(head + 2, " \t");

	start[strcspn(start, " \t\r\n")] = '\0';
	return start;
}

static bool is_glibc_linker(int fd, const Elf64_Phdr *segment)
{
	char name[HEAD_BYTES];
	size_t size = segment->p_filesz < sizeof(name) - 1 ? segment->p_filesz : sizeof(name) - 1;
	ssize_t got = pread(fd, name, size, (off_t)segment->p_offset);

	if (got <= 0)
		return false;
	name[got] = '\0';
	/* Also by a private path, as in /nix/store/.../ld-linux-x86-64.so.2. */
	return strstr(name, "ld-linux-x86-64") || strstr(name, "ld-2.");
}

/* The note that Go's linker leaves, among the others of @segment. */
static bool is_go_note(int fd, const Elf64_Phdr *segment)
{
	char notes[HEAD_BYTES * 2];
	ssize_t got = pread(fd, notes, sizeof(notes), (off_t)segment->p_offset);
	size_t end = got < 0 ? 0 : (size_t)got, at = 0;

	if (segment->p_filesz < end)
		end = segment->p_filesz;
	while (at + sizeof(Elf64_Nhdr) + 4 <= end) {
		Elf64_Nhdr note;

		memcpy(&note, notes + at, sizeof(note));
		if (note.n_namesz == 4 && !memcmp(notes + at + sizeof(note), "Go", 3))
			return true;
		at += sizeof(note) + ((size_t)note.n_namesz + 3) / 4 * 4 +
		      ((size_t)note.n_descsz + 3) / 4 * 4;
	}
	return false;
}

bool program_wants_engine(enum program_kind kind)
{
	return kind == PROGRAM_STATIC || kind == PROGRAM_OTHER_LIBC || kind == PROGRAM_GO;
}

/* Segment @index of the file. @read has the few around it that were read at once. */
static const Elf64_Phdr *segment_at(int fd, const Elf64_Ehdr *header, unsigned int index,
				    Elf64_Phdr read[SEGMENTS_READ])
{
	unsigned int first = index - index % SEGMENTS_READ, count = header->e_phnum - first;
	ssize_t bytes;

	if (count > SEGMENTS_READ)
		count = SEGMENTS_READ;
	bytes = (ssize_t)(count * sizeof(*read));
	if (index == first && pread(fd, read, (size_t)bytes,
				    (off_t)(header->e_phoff + first * sizeof(*read))) != bytes)
		return NULL;
	return &read[index - first];
}

enum program_kind program_check_elf(int fd, const void *head)
{
	enum program_kind kind = PROGRAM_STATIC;
	Elf64_Phdr segments[SEGMENTS_READ];
	bool is_go = false;
	Elf64_Ehdr header;

	memcpy(&header, head, sizeof(header));
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
		return PROGRAM_FOREIGN;
	for (unsigned int i = 0; i < header.e_phnum && i < SEGMENTS_MAX; i++) {
		const Elf64_Phdr *segment = segment_at(fd, &header, i, segments);

		if (!segment)
			break;
		if (segment->p_type == PT_INTERP)
			kind = is_glibc_linker(fd, segment) ? PROGRAM_OK : PROGRAM_OTHER_LIBC;
		if (segment->p_type == PT_NOTE)
			is_go |= is_go_note(fd, segment);
	}
	return kind == PROGRAM_OK && is_go ? PROGRAM_GO : kind;
}

/* One file: @head receives its first bytes, for a script's interpreter. */
static enum program_kind file_check(const char *path, char head[HEAD_BYTES], bool *is_script)
{
	enum program_kind kind = PROGRAM_OK;
	struct stat status;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	*is_script = false;
	if (fd < 0)
		return PROGRAM_UNREADABLE;
	memset(head, 0, HEAD_BYTES);
	got = pread(fd, head, HEAD_BYTES - 1, 0);
	if (got < 0)
		kind = PROGRAM_UNREADABLE;
	else if (got >= (ssize_t)sizeof(Elf64_Ehdr) && !memcmp(head, ELFMAG, SELFMAG))
		kind = program_check_elf(fd, head);
	else if (head[0] == '#' && head[1] == '!')
		*is_script = true;
	if (kind == PROGRAM_OK && !fstat(fd, &status) &&
	    (((status.st_mode & S_ISUID) && status.st_uid != geteuid()) ||
	     ((status.st_mode & S_ISGID) && status.st_gid != getegid())))
		kind = *is_script ? PROGRAM_OK : PROGRAM_SETUID;
	close(fd);
	return kind;
}

enum program_kind program_check(const char *path)
{
	char heads[2][HEAD_BYTES];
	enum program_kind kind = PROGRAM_OK;
	bool is_script = true;

	for (int depth = 0; is_script && depth < INTERPRETERS_MAX; depth++) {
		char *head = heads[depth & 1];

		kind = file_check(path, head, &is_script);
		if (is_script)
			path = script_interpreter(head);
	}
	return kind;
}

const char *program_reason(enum program_kind kind)
{
	switch (kind) {
	case PROGRAM_STATIC:
		return "is statically linked, and there is no quire-engine to start it on";
	case PROGRAM_OTHER_LIBC:
		return "has another C library than glibc, and there is no quire-engine to start it "
		       "on";
	case PROGRAM_GO:
		return "is a Go program, and there is no quire-engine to start it on";
	case PROGRAM_FOREIGN:
		return "is not a program for x86-64, so Quire cannot serve it";
	case PROGRAM_SETUID:
		return "is set-user-ID or set-group-ID, where preloaded libraries are ignored";
	case PROGRAM_UNREADABLE:
		return "cannot be read";
	default:
		return "can be run";
	}
}

static bool is_runnable(const char *path)
{
	struct stat status;

	return !stat(path, &status) && S_ISREG(status.st_mode) && !access(path, X_OK);
}

int program_find(const char *name, const char *search, char *path, size_t path_bytes)
{
	size_t length = strlen(name);
	int error = -ENOENT;

	if (strchr(name, '/')) {
		if (length >= path_bytes)
			return -ENAMETOOLONG;
		memcpy(path, name, length + 1);
		return access(path, F_OK) ? -ENOENT : is_runnable(path) ? 0 : -EACCES;
	}
	if (!search)
		search = "/bin:/usr/bin";
	for (;;) {
		size_t part = strcspn(search, ":");

		if (part + length + 2 <= path_bytes && length) {
			memcpy(path, search, part);
			path[part] = '/';
			memcpy(path + part + (part != 0), name, length + 1);
			if (is_runnable(path))
				return 0;
			if (!access(path, F_OK))
				error = -EACCES;
		}
		if (!search[part])
			return error;
		search += part + 1;
	}
}
