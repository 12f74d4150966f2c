/* A test client's own assertions: it is an ordinary program, run with the library in it. */
#ifndef QUIRE_TESTS_PRELOAD_CHECK_H
#define QUIRE_TESTS_PRELOAD_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                          \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: %s (errno %s)\n", __FILE__, __LINE__, #condition, \
				strerror(errno));                                                 \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

#define CHECK_FAILS(call, error)         \
	do {                             \
		errno = 0;               \
		CHECK((call) == -1);     \
		CHECK(errno == (error)); \
	} while (0)

struct test {
	const char *name;
	void (*function)(void);
};

static inline void run_tests(const struct test *tests, size_t count, const char *only)
{
	for (size_t i = 0; i < count; i++) {
		if (only && strcmp(only, tests[i].name))
			continue;
		printf("%s\n", tests[i].name);
		fflush(stdout);
		tests[i].function();
	}
}

#endif
