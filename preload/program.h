/* Can a program be run with us in it? Shared by the launcher and the interposed exec calls. */
#ifndef QUIRE_PRELOAD_PROGRAM_H
#define QUIRE_PRELOAD_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

enum program_kind {
	PROGRAM_OK,	    /* dynamically linked for this machine and libc */
	PROGRAM_UNREADABLE, /* errno says why; the kernel will say it, too */
	PROGRAM_STATIC,	    /* no dynamic linker: nothing can be preloaded */
	PROGRAM_OTHER_LIBC, /* another libc's dynamic linker: ours cannot be preloaded */
	PROGRAM_GO,	    /* dynamically linked, and calls the kernel itself */
	PROGRAM_FOREIGN,    /* another machine's code */
	PROGRAM_SETUID,	    /* the dynamic linker ignores preloads there */
};

/*
 * Look at the file @path, or at the interpreter of a script. Async-signal-safe (used between vfork
 * and exec). errno is unspecified unless UNREADABLE.
 */
enum program_kind program_check(const char *path);

/* The same for an open ELF file whose first bytes are at @head (an Elf64_Ehdr at least). */
enum program_kind program_check_elf(int fd, const void *head);

/* Is a program of @kind started on the engine? */
bool program_wants_engine(enum program_kind kind);

/* A sentence for people: why @kind cannot run. */
const char *program_reason(enum program_kind kind);

/* Look @name up as execvp(3) does, in @search ("PATH"'s value, NULL: the default). 0 or -errno. */
int program_find(const char *name, const char *search, char *path, size_t path_bytes);

#endif
