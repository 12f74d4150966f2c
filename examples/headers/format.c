/* quire/format.h: the walk of a processor, and what the words on its way say. */
#include <quire/format.h>
#include <quire/vcpu.h>

#include "example.h"

void example_format(void)
{
	struct quire_translation found;
	struct quire_stage2 stage2;
	struct example example;
	uint64_t requests;
	gpa_t gpa = {EXAMPLE_GPA + 8};

	EXAMPLE_CHECK(example_create(&example, QUIRE_VM_DEFAULT, 0) == 0);

	/* A write finds nothing; its error code is what the fault handler wants to know. */
	EXAMPLE_CHECK(quire_vcpu_enter(example.vcpu, &requests, &stage2) == 0);
	EXAMPLE_CHECK(!quire_walk(&stage2, gpa, QUIRE_PFERR_WRITE, &found));
	EXAMPLE_CHECK(found.error_code == QUIRE_PFERR_WRITE);
	quire_vcpu_leave(example.vcpu);
	EXAMPLE_CHECK(example_guest_writes(&example, EXAMPLE_GPA) == QUIRE_FIXED);

	/* Now it leads to a page, which the walk marks as used and written. */
	EXAMPLE_CHECK(quire_vcpu_enter(example.vcpu, &requests, &stage2) == 0);
	EXAMPLE_CHECK(quire_walk(&stage2, gpa, QUIRE_PFERR_WRITE, &found));
	EXAMPLE_CHECK(found.level == QUIRE_LEVEL_4K && found.address % QUIRE_PAGE_SIZE == 8);
	EXAMPLE_CHECK(quire_entry_is_writable(stage2.format, *found.slot));
	EXAMPLE_CHECK(quire_entry_is_accessed(stage2.format, *found.slot));
	EXAMPLE_CHECK(quire_entry_is_dirty(stage2.format, *found.slot));
	quire_vcpu_leave(example.vcpu);
	example_destroy(&example);
}
