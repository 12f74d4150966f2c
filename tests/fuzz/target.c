/* From an input to the steps of a target. */
#include "tests/fuzz/target.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/watch.h"

#define IS_STARTED "QUIRE_FUZZ_IS_STARTED"
#define WORDS_MAX 64

void fuzz_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\n");
	abort();
}

/* A service that runs many fuzzers starts the program alone: with the command beside it. */
static void start_under_quire(char **argv)
{
	static char self[PATH_MAX], command[PATH_MAX], run[] = "run", end[] = "--";
	ssize_t size = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *words[WORDS_MAX + 1] = {command, run, end, self};
	int count = 4;

	if (size < 0)
		return;
	snprintf(command, sizeof(command), "%.*s/quire", (int)(strrchr(self, '/') - self), self);
	if (access(command, X_OK) || setenv(IS_STARTED, "1", 1))
		return;
	for (int i = 1; argv[i] && count < WORDS_MAX; i++)
		words[count++] = argv[i];
	execv(command, words);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	if (fuzz_target.needs_kvm && !getenv(IS_STARTED))
		start_under_quire(*argv);
	fuzz_target.start();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t records = size / FUZZ_RECORD_BYTES;

	if (records > FUZZ_RECORDS_MAX)
		records = FUZZ_RECORDS_MAX;
	watch_begin(fuzz_target.seconds ? fuzz_target.seconds : FUZZ_SECONDS);
	fuzz_target.begin();
	for (size_t i = 0; i < records; i++) {
		const uint8_t *record = data + i * FUZZ_RECORD_BYTES;
		struct fuzz_random random;

		random_from(&random, record + 1, FUZZ_RECORD_BYTES - 1);
		if (!fuzz_target.step(record[0] % fuzz_target.kinds, &random))
			break;
	}
	fuzz_target.end();
	watch_end();
	return 0;
}
