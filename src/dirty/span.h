/* A span of a slot's log: which bits a harvest names, and where the entries of their gfns are. */
#ifndef QUIRE_DIRTY_SPAN_H
#define QUIRE_DIRTY_SPAN_H

#include <quire/host.h>

#include "src/base/types.h"

/* One word of the span that is not empty: 64 gfns from base + 64 * @index on. */
struct log_word {
	u64 index;
	u64 *entries; /* of the 64 gfns, when one table has them and it was found; else NULL */
};

/*
 * One story, told by what each step knows: the request has @log and @masks; a piece of it also has
 * @named; tdp_find_span() adds the entries; taking cuts @masks down to the bits that were set; and
 * tdp_protect_span() arms what is left.
 */
struct log_span {
	u32 as_id;
	gfn_t base;  /* of the first bit */
	u64 words;   /* in @log and @masks */
	u64 *log;    /* the slot's bits; NULL: there are none to take, a ring says what is dirty */
	u64 *masks;  /* the bits that are named */
	u64 nonzero; /* in @named */
	struct log_word *named; /* the words with a mask that is not empty, rising */
};

/* How many bits @span names. */
static inline u64 log_span_bits(const struct log_span *span)
{
	u64 sum = 0;

	for (u64 i = 0; i < span->words; i++)
		sum += bits_set(span->masks[i]);
	return sum;
}

#endif
