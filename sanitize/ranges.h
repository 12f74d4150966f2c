/* Lists of ranges that are private, each with the stack of the change that made it so. */
#ifndef QUIRE_SANITIZE_RANGES_H
#define QUIRE_SANITIZE_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "sanitize/stack.h"

/* Of a VM's guest memory, whether or not a slot has it; or of a file. In no order. */
struct private_range {
	uint64_t start, end;
	struct sanitize_stack stack;
	struct private_range *next;
};

/* The caller has cut what overlaps. False: there is no memory for it. */
bool ranges_add(struct private_range **list, const struct private_range *wanted);
/* [start, end) is in the list no more. */
void ranges_cut(struct private_range **list, uint64_t start, uint64_t end);

#endif
