/* The public names of a library, read from the map that its linker is given. */
#include "tests/rules/lib/nth_names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

void nth_names_are_tried(const char *variable, int (*is_tried)(const char *function),
			 unsigned int least)
{
	const char *path = getenv(variable);
	FILE *file = path ? fopen(path, "r") : NULL;
	unsigned int count = 0;
	char line[200];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		char name[100];

		if (sscanf(line, " %99[a-z0-9_];", name) != 1 || strncmp(name, "quire_", 6) != 0)
			continue;
		count++;
		if (!is_tried(name))
			fail_msg("%s is not tried", name);
	}
	assert_int_equal(fclose(file), 0);
	assert_true(count >= least);
}
