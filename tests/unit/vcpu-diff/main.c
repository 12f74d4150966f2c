/*
 * Runs random cases of every instruction form on the machine and in the interpreter: a form that is
 * never compared is a failure. Usage: vcpu-diff [--rounds N] [--seed S] [--form TEXT]
 * [--translate 1], which puts translated code in the interpreter's place.
 * tests/fuzz/fuzz_instruction.c looks for what these cases miss.
 */
#include "tests/unit/vcpu-diff/diff.h"
#include "vcpu/decode/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPORTS_PER_FORM 2
#define TRIES 64

struct options {
	uint64_t rounds;
	uint64_t seed;
	const char *form;
	int translate;
};

struct totals {
	uint64_t cases, faults, mismatches, unrepeated, missing;
};

/* One case of @form; counts it in @totals. */
static void form_run(struct form *form, struct fuzz_random *rng, struct totals *totals)
{
	static struct test_case test;
	static uint64_t filled;
	enum case_end end;
	int tries = 0;

	if (filled++ % 64 == 0)
		case_fill(&test, rng);
	while (!case_generate(&test, form, (struct case_draws){rng, rng})) {
		if (++tries == TRIES) {
			form->unencodable++;
			return;
		}
	}
	end = case_check(&test);
	form->runs++;
	totals->cases++;
	form->faults += end == CASE_FAULT;
	totals->faults += end == CASE_FAULT;
	totals->unrepeated += end == CASE_UNREPEATED;
	totals->mismatches += end == CASE_DIFFERS;
	if (end == CASE_DIFFERS && form->mismatches++ < REPORTS_PER_FORM)
		case_explain(&test);
}

/* More of them are no accident. */
#define UNREPEATED_MAX 8u

static void options_parse(struct options *options, int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--rounds"))
			options->rounds = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			options->seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--form"))
			options->form = argv[i + 1];
		else if (!strcmp(argv[i], "--translate"))
			options->translate = atoi(argv[i + 1]);
	}
}

/* Forms that the machine has and @options name move to the front; returns how many they are. */
static size_t forms_select(struct form *forms, size_t count, const struct options *options)
{
	size_t selected = 0, skipped = 0;

	for (size_t i = 0; i < count; i++) {
		if (options->form && !strstr(form_name(&forms[i]), options->form))
			continue;
		if (!feature_present(forms[i].family->feature)) {
			skipped++;
			continue;
		}
		forms[selected++] = forms[i];
	}
	printf("%zu forms, %zu skipped: this machine lacks them\n", selected, skipped);
	return selected;
}

/* A form that never ran, or never without an exception, was not tested. */
static void forms_check(const struct form *forms, size_t count, struct totals *totals)
{
	for (size_t i = 0; i < count; i++) {
		if (forms[i].runs > forms[i].faults)
			continue;
		printf("UNTESTED %s: %lu runs, %lu exceptions, %lu without an encoding\n",
		       form_name(&forms[i]), forms[i].runs, forms[i].faults, forms[i].unencodable);
		totals->missing++;
	}
}

int main(int argc, char **argv)
{
	/* Enough for a form with rare encodings. */
	struct options options = {.rounds = 30, .seed = 1};
	struct totals totals = {0};
	struct fuzz_random rng;
	size_t count = 0, rounds = 0;
	/* The forms are named by Zydis. */
	struct form *forms = decoder_load() ? NULL : forms_expand(&count);

	options_parse(&options, argc, argv);
	if (!forms || native_init() || interpreter_init()) {
		fprintf(stderr, "vcpu-diff: cannot set up\n");
		return 2;
	}
	if (options.translate && interpreter_translate(true)) {
		printf("this machine does not translate\n");
		return 77;
	}
	random_seed(&rng, options.seed);
	count = forms_select(forms, count, &options);
	for (; rounds < options.rounds; rounds++) {
		for (size_t i = 0; i < count; i++)
			form_run(&forms[i], &rng, &totals);
	}
	forms_check(forms, count, &totals);
	printf("seed %lu: %zu rounds, %lu cases, %lu with an exception, %lu mismatches, "
	       "%lu not repeated by the machine, %lu forms untested\n",
	       options.seed, rounds, totals.cases, totals.faults, totals.mismatches,
	       totals.unrepeated, totals.missing);
	interpreter_exit();
	free(forms);
	return totals.mismatches || totals.unrepeated > UNREPEATED_MAX || totals.missing || !count;
}
