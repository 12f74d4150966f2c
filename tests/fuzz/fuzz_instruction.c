/*
 * An instruction does the same in the interpreter, in translated code and on the machine: any form
 * that tests/unit/vcpu-diff has, with operands, prefixes, registers and memory of the input's.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/target.h"
#include "tests/unit/vcpu-diff/diff.h"
#include "vcpu/decode/decoder.h"

enum kind { INTERPRET, TRANSLATE, MEMORY, KINDS };

struct numbered {
	const struct form *form;
	uint16_t number;
};

static struct numbered *numbered;
static size_t form_count;
static struct test_case test;

/* Of its name: a stored input still means the form when the table has grown. */
static uint16_t number_of(const struct form *form)
{
	uint32_t number = 0x811c9dc5;

	for (const char *at = form_name(form); *at; at++)
		number = (number ^ (uint8_t)*at) * 0x01000193;
	return (uint16_t)(number ^ number >> 16);
}

static int compare_forms(const void *one, const void *other)
{
	return (int)((const struct numbered *)one)->number -
	       (int)((const struct numbered *)other)->number;
}

static void number_forms(struct form *forms)
{
	numbered = calloc(form_count, sizeof(*numbered));
	if (!numbered)
		fuzz_fail("no memory");
	for (size_t i = 0; i < form_count; i++)
		numbered[i] = (struct numbered){&forms[i], number_of(&forms[i])};
	qsort(numbered, form_count, sizeof(*numbered), compare_forms);
}

/* The form of that number, or the next one. */
static const struct form *form_at(uint16_t number)
{
	size_t low = 0, high = form_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (numbered[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return numbered[low % form_count].form;
}

static void start(void)
{
	struct form *forms;
	sigset_t alarm;

	/* An instruction under test may change RSP: the handler of libFuzzer's clock would use it.
	 */
	sigemptyset(&alarm);
	sigaddset(&alarm, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm, NULL);
	/* The forms are named by Zydis. */
	forms = decoder_load() ? NULL : forms_expand(&form_count);
	if (!forms || native_init() || interpreter_init())
		fuzz_fail("no machine to compare with");
	number_forms(forms);
}

/* No input starts from what the last one left. */
static void begin(void)
{
	struct fuzz_random random;

	random_seed(&random, 0);
	case_fill(&test, &random);
}

static int step(unsigned int kind, struct fuzz_random *random)
{
	const struct form *form = form_at((uint16_t)random_below(random, 0x10000));
	struct fuzz_random values;

	if (kind == MEMORY) {
		case_fill(&test, random);
		return 1;
	}
	if (!feature_present(form->family->feature) || interpreter_translate(kind == TRANSLATE))
		return 1;
	random_seed(&values, random_below(random, 0x10000));
	if (!case_generate(&test, form, (struct case_draws){random, &values}) ||
	    case_check(&test) != CASE_DIFFERS)
		return 1;
	case_explain(&test);
	fuzz_fail("%s: the machine does something else", form_name(form));
}

static void end(void)
{
}

const struct fuzz_target fuzz_target = {
    .kinds = KINDS,
    .start = start,
    .begin = begin,
    .step = step,
    .end = end,
};
