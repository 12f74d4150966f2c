/* quire/types.h: kinds of addresses that the compiler keeps apart, and page geometry. */
#include <quire/types.h>

#include "example.h"

void example_types(void)
{
	gpa_t gpa = {0x201234};
	gfn_t gfn = gfn_of(gpa);

	EXAMPLE_CHECK(gfn.v == 0x201);
	EXAMPLE_CHECK(gpa_of(gfn).v == (gpa.v & QUIRE_PAGE_MASK));
	EXAMPLE_CHECK(level_pages(QUIRE_LEVEL_2M) * QUIRE_PAGE_SIZE == 2u << 20);
}
