/* Which bug the preloaded library has, or which fast path it lacks: QUIRE_MUTANT's, for tests. */
#include <stdlib.h>

#include "src/base/mutant.h"

enum quire_mutant quire_mutant;

__attribute__((constructor(102))) static void choose_mutant(void)
{
	const char *name = getenv("QUIRE_MUTANT");
#define MUTANT_NAME(name, what) {MUTANT_##name, #name},
	static const struct {
		enum quire_mutant mutant;
		const char *name;
	} mutants[] = {QUIRE_MUTANT_LIST(MUTANT_NAME) QUIRE_SLOW_LIST(MUTANT_NAME)
			   QUIRE_HOST_SLOW_LIST(MUTANT_NAME)};
#undef MUTANT_NAME

	for (unsigned int i = 0; name && i < sizeof(mutants) / sizeof(mutants[0]); i++) {
		const char *a = name, *b = mutants[i].name;

		while (*a && *a == *b)
			a++, b++;
		if (*a == *b)
			quire_mutant = mutants[i].mutant;
	}
}
