/* The names of bugs on the command line of a program that plants them. */
#include "tests/sim/names.h"

#include <stdio.h>
#include <string.h>

bool names_have(int argc, char **argv, const char *name)
{
	for (int at = 1; at < argc; at++)
		if (!strcmp(argv[at], name))
			return true;
	return argc < 2;
}

static bool is_known(const char *wanted, name_of_fn *name_of)
{
	const char *name;

	for (size_t i = 0; (name = name_of(i)) != NULL; i++)
		if (!strcmp(name, wanted))
			return true;
	return false;
}

bool names_are_known(int argc, char **argv, name_of_fn *name_of)
{
	const char *name;

	for (int at = 1; at < argc; at++) {
		if (is_known(argv[at], name_of))
			continue;
		fprintf(stderr, "there is no '%s'; there are:", argv[at]);
		for (size_t i = 0; (name = name_of(i)) != NULL; i++)
			fprintf(stderr, " %s", name);
		fprintf(stderr, "\n");
		return false;
	}
	return true;
}
