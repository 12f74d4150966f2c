/* Tests of one program: each in a process of its own, so that one's end is not another's. */
#ifndef RULES_CHECK_H
#define RULES_CHECK_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

struct check_test {
	const char *name;
	void (*run)(void);
};

#define TEST(function)              \
	{                           \
#function, function \
	}

/*
 * Runs the tests named in argv, or all. Prints a line each; 0 when none failed, 77 when all
 * were skipped, else 1. A test that takes longer than a minute has failed.
 */
int check_main(int argc, char **argv, const struct check_test *tests, size_t count);

/* Ends the test: as failed, with a line that says where; or as one this machine cannot run. */
__attribute__((noreturn, format(printf, 3, 4))) void check_fail(const char *file, int line,
								const char *format, ...);
__attribute__((noreturn)) void check_skip(const char *reason);

#define FAIL(...) check_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                  \
	do {                              \
		if (!(condition))         \
			FAIL(#condition); \
	} while (0)

#define CHECK_EQ(left, right)                                                           \
	do {                                                                            \
		unsigned long long left_ = (unsigned long long)(left);                  \
		unsigned long long right_ = (unsigned long long)(right);                \
		if (left_ != right_)                                                    \
			FAIL("%s is %#llx, %s is %#llx", #left, left_, #right, right_); \
	} while (0)

/* The call returns -1 with this errno. */
#define CHECK_ERR(call, number)                                                                   \
	do {                                                                                      \
		errno = 0;                                                                        \
		long result_ = (long)(call);                                                      \
		int errno_ = errno;                                                               \
		if (result_ != -1 || errno_ != (number))                                          \
			FAIL("%s is %ld with errno %d, not %s", #call, result_, errno_, #number); \
	} while (0)

/* The call returns no negative number; its value. */
#define CHECK_OK(call)                                                          \
	({                                                                      \
		errno = 0;                                                      \
		long result_ = (long)(call);                                    \
		if (result_ < 0)                                                \
			FAIL("%s is %ld with errno %d", #call, result_, errno); \
		result_;                                                        \
	})

/* The call returns 0. */
#define CHECK_ZERO(call) CHECK_EQ(CHECK_OK(call), 0)

#endif
