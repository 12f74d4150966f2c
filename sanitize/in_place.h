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
/* In the child of a fork, with the lock of the machines held: its mappings are not told of here. */
void in_place_forked(void);

#endif
