/* What the platform is told of a broken invariant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <quire/platform.h>

#include "src/base/assert.h"

static char told[512];

static void note(const char *text)
{
	strncpy(told, text, sizeof(told) - 1);
}

static const struct quire_platform platform = {.report = note};

/* The next call's locals stand where nothing is zero. */
static __attribute__((noinline)) void soil_stack(void)
{
	volatile char bytes[2048];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = 'x';
}

static void expect(const char *condition, int line, const char *wanted)
{
	soil_stack();
	(void)base_report_broken(condition, "some/file.c", line);
	assert_string_equal(told, wanted);
}

static void test_report(void **state)
{
	char condition[400], wanted[256] = "quire: broken: ";

	quire_platform_install(&platform);
	expect("a == b", 7, "quire: broken: a == b at some/file.c:7");
	expect("a", 1203, "quire: broken: a at some/file.c:1203");
	/* What is too long is cut. */
	memset(condition, 'c', sizeof(condition) - 1);
	condition[sizeof(condition) - 1] = '\0';
	memset(wanted + strlen(wanted), 'c', sizeof(wanted) - 1 - strlen(wanted));
	expect(condition, 12, wanted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_report),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
