/* The machine below the library. */
#ifndef EMBED_PORT_H
#define EMBED_PORT_H

#include <quire/host.h>
#include <quire/platform.h>

/* port.c: the library's tables of functions, for one thread. */
void fill_tables(struct quire_platform *platform, struct quire_host_ops *host);

/*
 * What a machine adds: hosted.c where there is a libc. tests/kernel/machine.c has it for a kernel.
 */

/* A pointer to memory less its physical address. */
extern const uint64_t physical_offset;

/* Memory with that alignment; NULL: there is none. */
void *zeroed(size_t alignment, size_t size_bytes);
void release(void *memory, size_t size_bytes);

/* Prints a line. */
void say(const char *text, uint64_t number);

#endif
