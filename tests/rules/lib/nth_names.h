/* The public names of a library, as its linker map has them. */
#ifndef QUIRE_TESTS_RULES_LIB_NTH_NAMES_H
#define QUIRE_TESTS_RULES_LIB_NTH_NAMES_H

/* Fails the test for each name of the map at the path in @variable of the environment that
 * @is_tried does not know, and unless the map has @least names. */
void nth_names_are_tried(const char *variable, int (*is_tried)(const char *function),
			 unsigned int least);

#endif
