/* A program is brought into memory as the kernel's execve would have done it. */
#ifndef QUIRE_HOSTS_PROCESS_LOAD_H
#define QUIRE_HOSTS_PROCESS_LOAD_H

#include <limits.h>
#include <stdint.h>

/* What became of one ELF file. */
struct load {
	uint64_t entry;
	uint64_t bias; /* added to the file's addresses */
	uint64_t headers, header_bytes, header_count;
	uint64_t code_start, code_end, data_start, data_end; /* as in /proc/PID/stat */
	uint64_t end;					     /* of the last byte */
	uint64_t dynamic;				     /* the dynamic section; 0: none */
	int has_executable_stack;
	char interpreter[PATH_MAX]; /* empty: none */
};

enum load_place {
	LOAD_PROGRAM,	  /* where the kernel puts programs */
	LOAD_INTERPRETER, /* where it puts dynamic linkers */
	LOAD_OURS,	  /* where the library has its own mappings */
};

/* Map the ELF file @fd. 0 or -errno: then something may be mapped, and the process has to end. */
int load_file(struct load *load, int fd, enum load_place place);

#endif
