/* What the platform is told of a broken invariant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include <quire/platform.h>

#include "src/base/assert.h"
#include "src/base/platform.h"

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
	assert_int_equal(base_report_broken(condition, "some/file.c", line), 1);
	assert_string_equal(told, wanted);
}

static void test_report(void **state)
{
	char condition[400], wanted[256] = "quire: broken: ";

	quire_platform_install(&platform);
	expect("a == b", 7, "quire: broken: a == b at some/file.c:7");
	expect("a", 1203, "quire: broken: a at some/file.c:1203");
	expect("a", 0, "quire: broken: a at some/file.c:0");
	expect("a", 10, "quire: broken: a at some/file.c:10");
	expect("a", INT32_MAX, "quire: broken: a at some/file.c:2147483647");
	expect("", 9, "quire: broken:  at some/file.c:9");
	/* What is too long is cut. */
	memset(condition, 'c', sizeof(condition) - 1);
	condition[sizeof(condition) - 1] = '\0';
	memset(wanted + strlen(wanted), 'c', sizeof(wanted) - 1 - strlen(wanted));
	expect(condition, 12, wanted);
}

/* Without a place to report to, what is broken is broken all the same. */
static void test_without_report(void **state)
{
	static const struct quire_platform silent;

	(void)state;
	told[0] = '\0';
	quire_platform_install(&silent);
	assert_int_equal(base_report_broken("a", "file.c", 1), 1);
	quire_platform_install(NULL);
	assert_int_equal(base_report_broken("a", "file.c", 1), 1);
	assert_string_equal(told, "");
}

/* All records that were registered are found, the last first. */
static void test_threads(void **state)
{
	static struct quire_thread records[3];
	struct quire_thread *at;

	(void)state;
	for (size_t i = 0; i < 3; i++)
		quire_thread_register(&records[i]);
	at = base_threads();
	for (size_t i = 3; i-- > 0; at = at->next)
		assert_ptr_equal(at, &records[i]);
	assert_null(at);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_report),
	    cmocka_unit_test(test_without_report),
	    cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
