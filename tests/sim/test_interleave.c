/* Pairs of operations under every interleaving with a bounded number of preemptions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "src/entry/format.h"
#include "tests/sim/pairs.h"

static void explore(const struct pair *test)
{
	struct sched_verdict verdict;

	(void)pair_explore(test, &verdict);
	print_message("%s: %llu runs\n", test->name, (unsigned long long)verdict.runs);
	if (verdict.failed) {
		print_message("%s failed, result %d; plan:", test->name, (int)verdict.result);
		for (uint32_t i = 0; i < verdict.plan.count; i++)
			print_message(" %u->%u", verdict.plan.at[i].step,
				      verdict.plan.at[i].thread);
		print_message("\n");
	}
	assert_false(verdict.failed);
	/* A test that has nothing to interleave proves nothing. */
	assert_true(verdict.runs > 10 || getenv("QUIRE_PREEMPTIONS"));
}

static void explore_all(const struct pair *pairs)
{
	for (; pairs->name; pairs++)
		explore(pairs);
}

static void test_faults(void **state)
{
	(void)state;
	explore_all(pairs_fault);
}

static void test_slots(void **state)
{
	(void)state;
	explore_all(pairs_slots);
}

static void test_log(void **state)
{
	(void)state;
	explore_all(pairs_log);
}

static void test_gmem(void **state)
{
	(void)state;
	explore_all(pairs_gmem);
}

static void test_link(void **state)
{
	(void)state;
	explore_all(pairs_link);
}

static void test_convert(void **state)
{
	(void)state;
	explore_all(pairs_convert);
}

static void test_kernel(void **state)
{
	(void)state;
	explore_all(pairs_kernel);
}

static void test_end(void **state)
{
	(void)state;
	explore_all(pairs_end);
}

/* Shadow pages have one format. */
static void test_quota(void **state)
{
	(void)state;
	if (pair.machine.format == QUIRE_FORMAT_NPT)
		explore_all(pairs_quota);
}

static void test_access(void **state)
{
	(void)state;
	explore_all(pairs_access);
}

static void test_age(void **state)
{
	(void)state;
	explore_all(pairs_age);
}

/* In the format that is named, which must be one; without a name in those of x86. */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_faults), cmocka_unit_test(test_slots),
	    cmocka_unit_test(test_log),	   cmocka_unit_test(test_gmem),
	    cmocka_unit_test(test_link),   cmocka_unit_test(test_convert),
	    cmocka_unit_test(test_access), cmocka_unit_test(test_kernel),
	    cmocka_unit_test(test_end),	   cmocka_unit_test(test_quota),
	    cmocka_unit_test(test_age),
	};
	int failed = 0, found = 0;

	pairs_init();
	for (int format = 0; format < ENTRY_FORMATS; format++) {
		bool wanted = format <= QUIRE_FORMAT_EPT_NO_AD;

		if (argc > 1)
			wanted = !strcmp(entry_formats[format]->name, argv[1]);
		if (!wanted)
			continue;
		found++;
		pair.machine.format = (enum quire_format_id)format;
		failed += _cmocka_run_group_tests(entry_formats[format]->name, tests,
						  sizeof(tests) / sizeof(tests[0]), NULL, NULL);
	}
	pairs_destroy();
	if (!found)
		fprintf(stderr, "test_interleave: no format '%s'\n", argv[1]);
	return found ? failed : 2;
}
