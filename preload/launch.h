/*
 * How a program is started on the engine: `quire-engine` is executed in its place, with the
 * program's own arguments and, before its environment, the strings that say what to load.
 * Async-signal-safe: used between vfork and exec.
 */
#ifndef QUIRE_PRELOAD_LAUNCH_H
#define QUIRE_PRELOAD_LAUNCH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "preload/program.h"

/* First in the environment, in this order; taken out of it before the program sees it. */
#define LAUNCH_ENGINE "QUIRE_ENGINE="	       /* the engine's own path */
#define LAUNCH_STATE "QUIRE_ENGINE_STATE="     /* "FLAGS,DESCRIPTOR,RUN_DIRECTORY" */
#define LAUNCH_PROGRAM "QUIRE_ENGINE_PROGRAM=" /* the file to load */
#define LAUNCH_NAME "QUIRE_ENGINE_NAME="       /* what the client executed (AT_EXECFN) */
#define LAUNCH_STRINGS 4
/* FLAGS, a digit. */
#define LAUNCH_FILTERED 1
#define LAUNCH_CPUID 2

#define LAUNCH_SCRIPTS_MAX 5 /* a script's interpreter may be a script, this deep */
#define LAUNCH_HEAD_BYTES 256
#define LAUNCH_WORDS_MAX (2 * LAUNCH_SCRIPTS_MAX + 1)

/* What execve(2) would make of a file. */
struct launch {
	enum program_kind kind;
	char program[PATH_MAX]; /* the ELF file: itself, or the last interpreter */
	char name[PATH_MAX];	/* the file that was named */
	int fd;			/* open, to be loaded instead of @program; -1: none */
	/* Before the client's arguments, whose first they replace; none without a script. */
	const char *words[LAUNCH_WORDS_MAX];
	size_t word_count;
	char heads[LAUNCH_SCRIPTS_MAX][LAUNCH_HEAD_BYTES];
};

/* The strings of one start; pointers into @texts. */
struct launch_strings {
	const char *list[LAUNCH_STRINGS];
	char texts[LAUNCH_STRINGS][PATH_MAX + 64];
};

/*
 * Find out what executing @path means: follow scripts, look at the last file's headers. -errno as
 * execve(2) gives it. Files are looked at by libc's functions: inside a client call.
 */
int launch_resolve(struct launch *launch, const char *path);
/* The same for an open descriptor, which @path names in scripts. */
int launch_resolve_fd(struct launch *launch, int fd, const char *path);

struct launch_place {
	const char *engine;    /* its path */
	const char *directory; /* of the run; may be NULL */
	bool is_filtered;      /* this process has the trapping filter already */
	bool shows_cpuid;      /* `quire run --cpuid` */
};
void launch_write(struct launch_strings *strings, const struct launch *launch,
		  const struct launch_place *place);

#endif
