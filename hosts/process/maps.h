/* The mappings of this process as the kernel prints them: slower, and on every kernel. */
#ifndef QUIRE_HOSTS_PROCESS_MAPS_H
#define QUIRE_HOSTS_PROCESS_MAPS_H

#include <stdbool.h>
#include <stdint.h>

#include "hosts/process/process.h"

/* What is mapped. */
struct maps_name {
	uint64_t device; /* of the file system: major << 20 | minor; 0: no file */
	/* In the file, of the mapping's first byte; maps_find() alone tells it. */
	uint64_t offset_bytes;
	char text[256]; /* the file, or a word in brackets; cut at the end when too long */
};

/*
 * Find the mapping at @address in /proc/self/maps. The page size is taken to be 4096 and pfnmap
 * false: smaps_find() knows. 0, -ENOENT: nothing there, or what open() and read() said.
 */
int maps_find(uint64_t address, struct process_mapping *mapping, struct maps_name *name);

/* The file at @address: 0, or -errno when nothing is mapped there. */
int process_mapping_name(uint64_t address, struct maps_name *name);

/* A mapping of a file. */
struct maps_file {
	uint64_t start, end, offset;
	uint64_t device, inode; /* as in struct maps_name */
	bool shared;
};

/* One line of the text, for a reader with a descriptor of its own. False: no file is mapped. */
bool maps_parse_file(const char *line, struct maps_file *found);

/*
 * The first shared mapping of a file that ends behind @address, however the kernel tells. 0,
 * -ENOENT: there is none, or what open(), read() and the kernel's question said.
 */
int maps_next_file(uint64_t address, struct maps_file *found);
/* The same from the text. */
int maps_next_file_in_text(uint64_t address, struct maps_file *found);

/* All facts, from /proc/self/smaps. The kernel walks the tables of every mapping below. */
int smaps_find(uint64_t address, struct process_mapping *mapping);

#endif
