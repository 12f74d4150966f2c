/*
 * The detector "private" for files that convert in place: a private page of such a file is away
 * from the client's mappings, where an access raises SIGBUS. That stays so; it is reported.
 */
#ifndef QUIRE_SANITIZE_IN_PLACE_H
#define QUIRE_SANITIZE_IN_PLACE_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/private.h"

/* What the client's mappings of a file have in the kernel's list. */
struct sanitize_file {
	uint64_t device, inode;
	uint64_t size_bytes; /* of the file */
	uint64_t away_bytes; /* a private page is mapped so far behind its place */
};

/* Bytes of the file are private, or shared, from now on: after the change, or after its making. */
void sanitize_in_place(const struct sanitize_file *file, const struct sanitize_range *range,
		       bool is_private);
/* Its pages are gone. */
void sanitize_in_place_forget(const struct sanitize_file *file);

/* ---- What private.c and machine.c call ---- */

/* In a handler of SIGBUS. */
void in_place_fault(uint64_t address, const void *ucontext);
/*
 * The client is about to have a system call read or write [address, address + size), which the
 * kernel refuses with EFAULT, or ends early, at a private page: reported. Inside a client call.
 */
void in_place_touch(uint64_t address, uint64_t size_bytes);
/* In the child of a fork: what it has mapped follows the files, which are not its own. */
void in_place_forked(void);

#endif
