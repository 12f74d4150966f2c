/* Asks the kernel whether memory can be read or written, where no handler catches a fault. */
#ifndef QUIRE_HOSTS_PROCESS_PROBE_H
#define QUIRE_HOSTS_PROCESS_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Guarded accesses need our handlers, and SIGSEGV open on the thread. A client's pointer may come
 * before that: then the kernel copies a few bytes of each page, as it does for any call. The
 * answer holds until another thread of the client changes the mapping. May sleep as the kernel's
 * own copy may. No lock, no allocation; may be called between vfork() and exec.
 */
bool probe_readable(uint64_t address, size_t size_bytes);
/* Spoils what [address, address + size_bytes) holds. At least 8 bytes. */
bool probe_writable(uint64_t address, size_t size_bytes);

#endif
