/* Mappings of the library's own, in a place where the kernel puts none of the client's. */
#ifndef QUIRE_HOSTS_PROCESS_MAP_H
#define QUIRE_HOSTS_PROCESS_MAP_H

#include <stdint.h>

/*
 * mmap() at an address of the library's choice. Where a client takes memory away under a slot, the
 * kernel would give the hole to the next mapping that fits, and a guest could reach it there.
 * Sizes from 2 MiB begin on such a boundary. What is private and writable does not count as the
 * client's data (RLIMIT_DATA). Returns the address or -errno. Takes no lock.
 */
long process_map(uint64_t size_bytes, int protection, int flags, int fd);

/*
 * The same of a whole file that other processes write, too: @name in @directory. NULL: it is not
 * there, or cannot be mapped.
 */
void *process_map_shared(const char *directory, const char *name, uint64_t size_bytes);

#endif
