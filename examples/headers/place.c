/* quire/place.h: a word in guest memory that the hypervisor keeps up to date. */
#include <quire/place.h>

#include <errno.h>

#include "example.h"

void example_place(void)
{
	struct quire_place *place;
	struct example example;
	uint64_t word = 42, seen = 0;

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);
	EXAMPLE_CHECK(quire_place_create(example.vcpu, &place) == 0);
	EXAMPLE_CHECK(quire_place_set(place, (gpa_t){EXAMPLE_GPA + 64}, sizeof(word)) == 0);
	EXAMPLE_CHECK(quire_place_write(place, 0, &word, sizeof(word)) == 0);
	EXAMPLE_CHECK(quire_place_read(place, 0, &seen, sizeof(seen)) == 0);
	EXAMPLE_CHECK(seen == 42);
	EXAMPLE_CHECK(quire_place_read(place, 4, &seen, sizeof(seen)) == -EINVAL);
	quire_place_destroy(place);
	example_destroy(&example);
}
