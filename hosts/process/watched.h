/* Which of the client's memory a userfaultfd brings in: touching an absent page there may sleep. */
#ifndef QUIRE_HOSTS_PROCESS_WATCHED_H
#define QUIRE_HOSTS_PROCESS_WATCHED_H

#include <stdint.h>

/* What a userfaultfd is asked for; the numbers are UFFDIO_REGISTER's. */
enum watched_mode {
	WATCHED_MISSING = 1, /* pages that do not exist */
	WATCHED_WRITES = 2,  /* writes to pages that are protected */
	WATCHED_MINOR = 4,   /* pages that exist, and have no entry in the client's tables */
};

/*
 * [start, end) was registered with @modes, or is registered no more (0). Told once the kernel has
 * done so. What another process registers for this one is not known here.
 */
void watched_set(uint64_t start, uint64_t end, uint32_t modes);
/* The modes at @address, 0 for none. May name some that have ended. */
uint32_t watched_modes(uint64_t address);

#endif
