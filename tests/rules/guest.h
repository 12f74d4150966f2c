/* The guest's code as bytes. */
#ifndef RULES_GUEST_H
#define RULES_GUEST_H

#include <stdint.h>

#include "client.h"

/* Put the code at @dst. */
void guest_copy(void *dst);

/* Where in it a sequence starts. */
uint64_t guest_entry(enum guest_code code);

#endif
