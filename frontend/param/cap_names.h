/* Capabilities by name, for those that name them in words. */
#ifndef QUIRE_FRONTEND_PARAM_CAP_NAMES_H
#define QUIRE_FRONTEND_PARAM_CAP_NAMES_H

#include <stdint.h>

/* Numbers below this may be named. */
#define CAP_NAMES_MAX 1024u
#define CAP_NAMES_WORDS (CAP_NAMES_MAX / 64)

/*
 * A list, separated by commas or spaces, of numbers and of KVM's names with or without KVM_CAP_.
 * Sets the bit of each in @bits, CAP_NAMES_WORDS words; NULL: only tells whether the list makes
 * sense. 0 or -EINVAL.
 */
int cap_names_parse(const char *list, uint64_t *bits);

#endif
