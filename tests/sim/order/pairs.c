/*
 * Pairs of operations under the memory model: exit status 0 when all hold. "--sites" lists the
 * places in the code that ask for an order, "--weaken AT" takes the order from one: order.py does
 * so with each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hosts/sim/order.h"
#include "tests/sim/order/primitives.h"
#include "tests/sim/pairs.h"

/* The primitives and parts are short: they have as many choices as they want. */
#define SHORT true

/* Last the one that leaves thread records. */
static const struct suite {
	const struct pair *pairs;
	bool is_short;
} suites[] = {
    {pairs_primitive, SHORT}, {pairs_part, SHORT},	{pairs_tables, SHORT},
    {pairs_shadow, SHORT},    {pairs_gmem_part, SHORT}, {pairs_vm_part, SHORT},
    {pairs_fault, !SHORT},    {pairs_slots, !SHORT},	{pairs_log, !SHORT},
    {pairs_gmem, !SHORT},     {pairs_access, !SHORT},	{pairs_kernel, !SHORT},
    {pairs_quota, !SHORT},    {pairs_end, !SHORT},	{pairs_age, !SHORT},
    {pairs_link, !SHORT},     {pairs_convert, !SHORT},	{pairs_base, SHORT},
};

static void print_plan(const struct sched_verdict *verdict)
{
	for (uint32_t i = 0; i < verdict->plan.count; i++)
		printf(" %u->%u", verdict->plan.at[i].step, verdict->plan.at[i].thread);
	printf("\n");
}

/* A pair whose undisturbed run has more steps than this takes minutes: --long runs it, too. */
#define SHORT_STEPS 1000u

static struct {
	const char *part; /* of the names of the pairs to run */
	uint32_t choices; /* preemptions and older stores, together, at most */
	bool with_long;
	uint32_t found; /* pairs of such names */
} asked = {"", 1, false, 0};

static bool is_long(const struct pair *test)
{
	struct sched_verdict verdict;
	struct pair undisturbed = *test;

	undisturbed.preemptions = 0;
	return pair_explore(&undisturbed, &verdict) && verdict.steps > SHORT_STEPS;
}

static bool holds(const struct pair *test, uint32_t choices)
{
	struct sched_verdict verdict;
	struct pair bounded = *test;

	if (!strstr(test->name, asked.part))
		return true;
	asked.found++;
	printf("pair %s\n", test->name);
	fflush(stdout);
	if (!asked.with_long && is_long(test)) {
		printf("  not run, it is long\n");
		return true;
	}
	if (bounded.preemptions > choices)
		bounded.preemptions = choices;
	if (pair_explore(&bounded, &verdict)) {
		printf("  %llu runs\n", (unsigned long long)verdict.runs);
		return true;
	}
	printf("  failed after %llu runs, result %d, plan", (unsigned long long)verdict.runs,
	       (int)verdict.result);
	print_plan(&verdict);
	return false;
}

static bool all_hold(void)
{
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
		uint32_t choices = suites[i].is_short ? UINT32_MAX : asked.choices;

		for (const struct pair *test = suites[i].pairs; test->name; test++)
			if (!holds(test, choices))
				return false;
	}
	return true;
}

/* What broke ends its run, and the program says after how many. Outside a run there is no end. */
static void tell(const char *text)
{
	printf("  %s\n", text);
	if (sched_current() == SCHED_THREADS_MAX)
		abort();
}

int main(int argc, char **argv)
{
	bool lists = false, held;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--sites"))
			lists = true;
		else if (!strcmp(argv[i], "--long"))
			asked.with_long = true;
		else if (!strcmp(argv[i], "--pairs") && i + 1 < argc)
			asked.part = argv[++i];
		else if (!strcmp(argv[i], "--choices") && i + 1 < argc)
			asked.choices = (uint32_t)strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--weaken") && i + 1 < argc)
			order_weaken(order_code(strtoul(argv[++i], NULL, 0)), true);
		else
			return 2;
	}
	order_enable(true);
	sched_on_report(tell);
	pairs_init();
	held = all_hold();
	pairs_destroy();
	if (lists)
		order_print_sites();
	if (!asked.found) {
		fprintf(stderr, "no pair's name has '%s'\n", asked.part);
		return 2;
	}
	return held ? 0 : 1;
}
