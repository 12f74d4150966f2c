/* Which known bug the preloaded library has: QUIRE_MUTANT's number, for the soak tests only. */
#include <stdlib.h>

#include "src/base/mutant.h"

enum quire_mutant quire_mutant;

__attribute__((constructor(102))) static void choose_mutant(void)
{
	const char *name = getenv("QUIRE_MUTANT");
#define MUTANT_NAME(name, what) #name,
	static const char *const names[] = {"NONE", QUIRE_MUTANT_LIST(MUTANT_NAME)};
#undef MUTANT_NAME

	for (unsigned int i = 0; name && i < sizeof(names) / sizeof(names[0]); i++) {
		const char *a = name, *b = names[i];

		while (*a && *a == *b)
			a++, b++;
		if (*a == *b)
			quire_mutant = (enum quire_mutant)i;
	}
}
