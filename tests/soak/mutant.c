/* Which bug the preloaded library has, or which fast path it lacks: QUIRE_MUTANT's, for tests. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mutant.h"

enum quire_mutant quire_mutant;

/* A test with a misspelt name would be one without a bug. */
static void refuse(const char *name)
{
	static const char text[] = "QUIRE_MUTANT: there is no ";

	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ||
	    write(STDERR_FILENO, name, strlen(name)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
		_exit(2);
	_exit(2);
}

__attribute__((constructor(102))) static void choose_mutant(void)
{
	const char *name = getenv("QUIRE_MUTANT");
#define MUTANT_NAME(name, what) {MUTANT_##name, #name},
	static const struct {
		enum quire_mutant mutant;
		const char *name;
	} mutants[] = {{MUTANT_NONE, "none"},
		       QUIRE_MUTANT_LIST(MUTANT_NAME) QUIRE_SLOW_LIST(MUTANT_NAME)
			   QUIRE_HOST_SLOW_LIST(MUTANT_NAME)};
#undef MUTANT_NAME

	for (unsigned int i = 0; name && i < sizeof(mutants) / sizeof(mutants[0]); i++) {
		if (strcmp(name, mutants[i].name) != 0)
			continue;
		quire_mutant = mutants[i].mutant;
		return;
	}
	if (name)
		refuse(name);
}
