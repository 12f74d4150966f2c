/*
 * Runs the stored inputs of a fuzzer once each, without libFuzzer: replay FILE... A file is text: a
 * record a line, in hex; an empty line between two inputs; lines with # say what an input is for.
 */
#include "tests/fuzz/target.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct corpus {
	const char *path;
	unsigned long line, inputs;
	uint8_t input[FUZZ_RECORDS_MAX * FUZZ_RECORD_BYTES];
	size_t size;
};

/* What fuzz_fail() cannot name: a signal's end is told by the test's output, whose last line it is.
 */
static void run_input(struct corpus *corpus)
{
	if (!corpus->size)
		return;
	printf("%s: input %lu, ends at line %lu\n", corpus->path, ++corpus->inputs, corpus->line);
	fflush(stdout);
	LLVMFuzzerTestOneInput(corpus->input, corpus->size);
	corpus->size = 0;
}

static _Noreturn void refuse(const struct corpus *corpus, const char *why)
{
	fprintf(stderr, "%s:%lu: %s\n", corpus->path, corpus->line, why);
	exit(2);
}

static void take_record(struct corpus *corpus, const char *text)
{
	uint8_t *record = corpus->input + corpus->size;

	if (corpus->size == sizeof(corpus->input))
		refuse(corpus, "an input has more records than fuzzers run");
	for (unsigned int i = 0; i < FUZZ_RECORD_BYTES; i++) {
		unsigned int byte;
		int read = 0;

		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]) ||
		    sscanf(text, "%2x%n", &byte, &read) != 1)
			refuse(corpus, "not a record, which is 24 bytes in hex");
		record[i] = (uint8_t)byte;
		text += read;
	}
	if (*text)
		refuse(corpus, "more than a record, which is 24 bytes in hex");
	corpus->size += FUZZ_RECORD_BYTES;
}

static void replay(struct corpus *corpus)
{
	FILE *file = fopen(corpus->path, "r");
	char text[256];

	if (!file) {
		fprintf(stderr, "%s: %s\n", corpus->path, strerror(errno));
		exit(2);
	}
	while (fgets(text, sizeof(text), file)) {
		corpus->line++;
		text[strcspn(text, "\n")] = 0;
		if (text[0] == '#')
			continue;
		if (text[0])
			take_record(corpus, text);
		else
			run_input(corpus);
	}
	fclose(file);
	run_input(corpus);
	if (!corpus->inputs)
		refuse(corpus, "there is no input");
}

int main(int argc, char **argv)
{
	static struct corpus corpus;

	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE...\n", argv[0]);
		return 2;
	}
	fuzz_target.start();
	for (int i = 1; i < argc; i++) {
		corpus = (struct corpus){.path = argv[i]};
		replay(&corpus);
	}
	return 0;
}
