/* Ways in which a page of a guest's memory gets other bytes than its guest's. */
#ifndef SANITIZE_WAYS_H
#define SANITIZE_WAYS_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define PAGE 4096ul
/* The exit status of a client that this host cannot run. */
#define SKIPPED 77

struct way {
	const char *name;
	/* Writes what device.pipe has, or other bytes, to *to, which lies in one page. */
	ssize_t (*fill)(const struct iovec *to);
	int is_shared; /* the memory is a memfd's */
};

struct device {
	int pipe[2];
	/* Of a way with .is_shared: the file, and a second mapping of it. */
	int memory_fd;
	uint8_t *memory, *alias;
};
extern struct device device;

/* Ends the program where there is none of that name. */
const struct way *find_way(const char *name);
/* The guest's memory, all zero. */
uint8_t *device_memory(const struct way *way, uint64_t size_bytes);

/* dirty.c's: another VM that has the memory, too, and whose guest writes a word there. */
ssize_t by_other_vm(const struct iovec *to);
/* It has a log of its own, which is not read. */
ssize_t by_other_vm_logged(const struct iovec *to);

#endif
