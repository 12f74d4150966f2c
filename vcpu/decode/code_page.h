/* Host pages that hold decoded code: what their bytes were, and when they were last compared. */
#ifndef QUIRE_VCPU_DECODE_CODE_PAGE_H
#define QUIRE_VCPU_DECODE_CODE_PAGE_H

#include "hosts/process/guard.h"
#include "vcpu/inside.h"

#define CODE_LINE_BYTES 64u

struct block;

/*
 * A page keeps a copy of its lines that were decoded, and everything is decoded from the copy: so
 * when the copy equals memory, every block of the page does.
 */
struct code_page {
	struct code_page *next;					 /* of the same hash */
	struct block *blocks[QUIRE_PAGE_SIZE / CODE_LINE_BYTES]; /* by the line they begin in */
	uint64_t host_page;
	uint64_t lines;	     /* bit n: line n of 64 bytes holds decoded code */
	uint64_t epoch;	     /* cpu->code_epoch when the copy was last known to equal memory */
	uint64_t generation; /* of translated code: units of an older one are dead; not 0 */
	_Alignas(CODE_LINE_BYTES) uint8_t bytes[QUIRE_PAGE_SIZE];
};

/* The lines that [@offset, @offset + @size_bytes) of a page touches; what lies beyond it is cut. */
static inline uint64_t code_lines_of(unsigned int offset, unsigned int size_bytes)
{
	unsigned int first = offset / CODE_LINE_BYTES;
	unsigned int last = (offset + size_bytes - 1) / CODE_LINE_BYTES;

	if (last > 63)
		last = 63;
	return (~UINT64_C(0) >> (63 - last)) & (~UINT64_C(0) << first);
}

/*
 * Compare the lines that the copy has with memory: *@changed receives those that differ. The reason
 * when memory could not be read.
 */
enum guard_reason code_page_compare(struct code_page *page, uint64_t *changed);
/* Read the lines @wanted that the copy has not yet. They count as decoded from then on. */
enum guard_reason code_page_load(struct code_page *page, uint64_t wanted);

#endif
