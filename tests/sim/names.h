/* The names of bugs on the command line of a program that plants them. */
#ifndef QUIRE_TESTS_SIM_NAMES_H
#define QUIRE_TESTS_SIM_NAMES_H

#include <stdbool.h>
#include <stddef.h>

/* The name of bug @i; NULL behind the last. */
typedef const char *name_of_fn(size_t i);

/* Is @name among the arguments? True where there are none: all are meant. */
bool names_have(int argc, char **argv, const char *name);
/* Does each argument name one of @name_of's? Else says on standard error which does not, and what
 * the names are: a misspelt name would run nothing, and pass. */
bool names_are_known(int argc, char **argv, name_of_fn *name_of);

#endif
