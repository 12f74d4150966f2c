/* A page as the processor sees it and as the library says it is: <quire/format.h>. */
#ifndef KERNEL_COMPARE_H
#define KERNEL_COMPARE_H

#include <stdint.h>

#include <quire/vcpu.h>

#include "tests/kernel/guest.h"

/*
 * Each of loads, stores and fetches at @gpa, by the processor and by quire_walk(), from the same
 * words: as the tables are, and without A and D. Translation, error code and every word on the way
 * must be the same, but for the walker's .marks_refused; the words are put back. Returns how often
 * they were not, with a line for each.
 * *@mapped grows by the accesses that the processor made.
 */
unsigned int compare_page(const struct guest_walker *walker, struct quire_vcpu *vcpu, uint64_t gpa,
			  unsigned int *mapped);

/*
 * The same with one bit of the leaf wrong for the processor alone: accessed and dirty bits behind
 * its walk, others before it. How many of the bits were reported; *@tried: of how many.
 */
unsigned int compare_wrong_bits(const struct guest_walker *walker, struct quire_vcpu *vcpu,
				uint64_t gpa, unsigned int *tried);

#endif
