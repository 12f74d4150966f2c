/* Checks for tests that are ordinary programs: say where and why, count, go on. */
#ifndef TEST_FRONTEND_CHECK_H
#define TEST_FRONTEND_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* How long a busy machine may take for what another thread does: ten seconds. */
#define PATIENCE_MS 10000

static int check_failures;

#define CHECK(condition, ...)                                  \
	do {                                                   \
		if (!(condition)) {                            \
			printf("%s:%d: ", __FILE__, __LINE__); \
			printf(__VA_ARGS__);                   \
			printf(" (%s)\n", #condition);         \
			check_failures++;                      \
		}                                              \
	} while (0)

/* @condition must come true; when, the machine's other work decides. */
#define COMES(condition, ...)                                                 \
	do {                                                                  \
		for (int left_ = PATIENCE_MS; left_ && !(condition); left_--) \
			usleep(1000);                                         \
		CHECK(condition, __VA_ARGS__);                                \
	} while (0)

/* @call must fail with @error. */
#define FAILS(call, error)                                                                       \
	do {                                                                                     \
		long got_;                                                                       \
		errno = 0;                                                                       \
		got_ = (call);                                                                   \
		CHECK(got_ == -1 && errno == (error), "%s: result %ld, errno %s, not %s", #call, \
		      got_, strerrorname_np(errno), strerrorname_np(error));                     \
	} while (0)

/* @call must not fail. */
#define WORKS(call)                                                              \
	do {                                                                     \
		long got_ = (call);                                              \
		CHECK(got_ >= 0, "%s: errno %s", #call, strerrorname_np(errno)); \
	} while (0)

#endif
